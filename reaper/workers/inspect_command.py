"""`celery inspect query TASK_ID …`: what a worker does with a task, and which run the task belongs to.

Celery's command line runs no `django.setup()`: it knows the command only where the project's Celery module imports this
file, and the models are touched by the worker alone, when it is asked.
"""

import threading
from collections.abc import Callable, Mapping
from itertools import chain
from queue import Empty, SimpleQueue
from typing import Any

from celery.utils.functional import maybe_list
from celery.worker.control import Panel, inspect_command
from celery.worker.state import requests
from django.db import connections

# Seconds. Celery's command line waits 1 s for the replies, and the worker does nothing else meanwhile.
PATIENCE = 0.7
# Held by the thread that asks the database, so that a database that hangs keeps one thread and not one per question.
_asking = threading.Lock()


@inspect_command(variadic="ids", signature="id1 [id2 [... [idN]]]")
def query(state: Any, ids: Any, **_: Any) -> dict[str, Any]:
    """Say what this worker does with the tasks, and which runs they belong to."""
    asked = [str(task_id) for task_id in maybe_list(ids) or []]
    if not asked:
        return {"error": "name at least one task id"}
    runs = call_with_timeout(PATIENCE, lambda: {task_id: describe_run(task_id) for task_id in asked})
    unknown = {"run": f"unknown: {runs}"}
    doing = describe_held_tasks(state)
    return {
        task_id: {
            "this_worker": doing.get(task_id, "does not hold it"),
            **(runs[task_id] if isinstance(runs, dict) else unknown),
        }
        for task_id in asked
    }


def describe_held_tasks(state: Any) -> dict[str, str]:
    """Return what the worker does with each task that it holds. None of Celery's own lists has all of them."""
    buckets = [bucket.contents for bucket in state.consumer.task_buckets.values() if bucket]
    ways: tuple[tuple[str, list[str]], ...] = (
        ("holds it", list(requests)),
        ("waits to execute it (rate limit)", [entry[0].id for entry in chain.from_iterable(buckets)]),
        ("waits to execute it (reserved)", [each["id"] for each in Panel.data["reserved"](state)]),
        ("waits until its time comes (scheduled)", [each["request"]["id"] for each in Panel.data["scheduled"](state)]),
        ("executes it", [each["id"] for each in Panel.data["active"](state)]),
    )
    return {task_id: doing for doing, ids in ways for task_id in ids}


def describe_run(task_id: str) -> dict[str, str]:
    """Return what is known of the run that carries the task id."""
    from reaper.conf import clock
    from reaper.conf import settings as conf
    from reaper.core.facts import Phase

    for adapter in conf.adapters().values():
        if run := adapter.find_by_task_id(task_id):
            found = {"run": f"{run.kind}:{run.pk}", "status": run.status}
            since = None if run.phase is Phase.FINISHED else run.phase_since(clock.now(adapter.using))
            return {**found, "since": since.isoformat(" ", "seconds")} if since else found
    return {"run": "none carries this task id (a run that was requeued or retried has a new one)"}


def call_with_timeout(patience: float, ask: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any] | str:
    """Return what `ask` returns, or a sentence that says why it has no answer by then. Never raises."""
    answers: SimpleQueue[Mapping[str, Any] | str] = SimpleQueue()
    threading.Thread(target=lambda: answers.put(run_query(ask)), name="reaper-query", daemon=True).start()
    try:
        return answers.get(timeout=patience)
    except Empty:
        return f"the database did not answer within {patience} s"


def run_query(ask: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any] | str:
    """Ask, unless an earlier question still waits, and let go of the thread's connections."""
    if not _asking.acquire(blocking=False):
        return "the database has not answered an earlier question yet"
    try:
        return ask()
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    finally:
        try:
            connections.close_all()
        finally:
            _asking.release()
