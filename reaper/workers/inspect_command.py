"""`celery inspect query TASK_ID …`: what each worker does with a task, and which run the task belongs to.

Celery's command line runs no `django.setup()`: it knows the command only where the project's Celery module imports this
file, and only the worker that answers touches the models.
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

# Seconds. Celery's command line waits 1 s for the replies, and the worker does nothing else during that time.
DATABASE_TIMEOUT_S = 0.7
# Held by the thread that queries the database: a database that hangs keeps one thread, not one per command.
_querying = threading.Lock()


@inspect_command(variadic="ids", signature="id1 [id2 [... [idN]]]")
def query(state: Any, ids: Any, **_: Any) -> dict[str, Any]:
    """Return, by task id, what this worker does with the task, and which run it belongs to."""
    task_ids = [str(task_id) for task_id in maybe_list(ids) or []]
    if not task_ids:
        return {"error": "name at least one task id"}
    runs = call_with_timeout(DATABASE_TIMEOUT_S, lambda: {task_id: describe_run(task_id) for task_id in task_ids})
    unknown = {"run": f"unknown: {runs}"}
    held = describe_held_tasks(state)
    return {
        task_id: {
            "this_worker": held.get(task_id, "does not hold it"),
            **(runs[task_id] if isinstance(runs, dict) else unknown),
        }
        for task_id in task_ids
    }


def describe_held_tasks(state: Any) -> dict[str, str]:
    """Return what the worker does with each task that it holds, by task id. None of Celery's lists has all of them."""
    buckets = [bucket.contents for bucket in state.consumer.task_buckets.values() if bucket]
    # The last description of a task is the most specific one.
    descriptions: tuple[tuple[str, list[str]], ...] = (
        ("holds it", list(requests)),
        ("waits to execute it (rate limit)", [entry[0].id for entry in chain.from_iterable(buckets)]),
        ("waits to execute it (reserved)", [each["id"] for each in Panel.data["reserved"](state)]),
        ("waits until its time comes (scheduled)", [each["request"]["id"] for each in Panel.data["scheduled"](state)]),
        ("executes it", [each["id"] for each in Panel.data["active"](state)]),
    )
    return {task_id: description for description, ids in descriptions for task_id in ids}


def describe_run(task_id: str) -> dict[str, str]:
    """Return the run that carries the task id ("run": "KIND:ID"), its status, and since when it is in its phase."""
    from reaper.conf import clock
    from reaper.conf import settings as conf
    from reaper.core.facts import Phase

    for adapter in conf.adapters().values():
        if run := adapter.find_by_task_id(task_id):
            found = {"run": f"{run.kind}:{run.pk}", "status": run.status}
            since = None if run.phase is Phase.FINISHED else run.phase_since(clock.now(adapter.using))
            return {**found, "since": since.isoformat(" ", "seconds")} if since else found
    return {"run": "none carries this task id (a run that was requeued or retried has a new one)"}


def call_with_timeout(seconds: float, function: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any] | str:
    """Return what the function returns, or a sentence why it returned nothing in time. Raises nothing."""
    results: SimpleQueue[Mapping[str, Any] | str] = SimpleQueue()
    threading.Thread(target=lambda: results.put(run_query(function)), name="reaper-query", daemon=True).start()
    try:
        return results.get(timeout=seconds)
    except Empty:
        return f"the database did not answer within {seconds} s"


def run_query(function: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any] | str:
    """Return what the function returns or, as a sentence, what it raised; close this thread's connections.

    Call nothing while an earlier query still waits for the database.
    """
    if not _querying.acquire(blocking=False):
        return "the database has not answered an earlier query yet"
    try:
        return function()
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    finally:
        try:
            connections.close_all()
        finally:
            _querying.release()
