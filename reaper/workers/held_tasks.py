"""The tasks that a worker holds, by Celery's own lists, read from another thread."""

import time
from collections.abc import Iterable
from operator import itemgetter
from typing import Any, NamedTuple

from celery.worker import state
from celery.worker.request import Request

# Task ids that a heartbeat may carry: at most 0.5 MB of JSON.
MAX_TASK_IDS = 10_000
# Characters of a task id; the usual length of a column for one.
MAX_ID_LENGTH = 255
# How often to try to copy a list that changes during the copy.
COPY_ATTEMPTS = 100


class TaskSnapshot(NamedTuple):
    """The tasks that a worker holds at one moment."""

    active: dict[str, float]
    """When each running task started, by task id: seconds since the epoch, by the worker's clock."""
    held: set[str]
    """The ids of all its other tasks: reserved, scheduled, rate-limited."""


def snapshot_tasks(consumer: Any) -> TaskSnapshot:
    """Return the tasks that Celery's lists name at this moment.

    None of the lists is complete; the tests show what each one leaves out. Raises RuntimeError when a list changes so
    often that it cannot be copied, and AttributeError where Celery's internals have changed.
    """
    starts = [(request.id, request.time_start or time.time()) for request in copy_live(state.active_requests)]
    # Two copies of one message have the same id: the first start counts.
    active = dict(sorted(starts, key=itemgetter(1), reverse=True))
    held = set(copy_live(state.requests))
    for requests in (state.reserved_requests, getattr(state, "scheduled_requests", ())):
        held.update(request.id for request in copy_live(requests))
    for bucket in copy_live(consumer.task_buckets.values()):
        held.update(request.id for request, _ in copy_live(bucket.contents if bucket else ()))
    for scheduled in copy_live(consumer.timer.queue):
        held.update(each.id for each in scheduled.entry.args if isinstance(each, Request))
    return TaskSnapshot(active, held - active.keys())


def copy_live(collection: Iterable) -> list:
    """Return another thread's collection as a list. Raises RuntimeError when it changes during every attempt."""
    for _ in range(COPY_ATTEMPTS):
        try:
            return list(collection)
        except RuntimeError:  # it changed during the copy
            continue
    return list(collection)


def union(snapshots: Iterable[TaskSnapshot]) -> TaskSnapshot:
    """Return the tasks that any of the snapshots names."""
    active: dict[str, float] = {}
    held: set[str] = set()
    for snapshot in snapshots:
        active.update(snapshot.active)
        held |= snapshot.held
    return TaskSnapshot(active, held - active.keys())


def truncate(tasks: TaskSnapshot, limit: int = MAX_TASK_IDS) -> tuple[TaskSnapshot, bool]:
    """Return the tasks that a heartbeat can carry, running ones first, and whether these are all of them."""
    active = {task_id: tasks.active[task_id] for task_id in json_safe_ids(tasks.active)[:limit]}
    held = set(json_safe_ids(tasks.held)[: limit - len(active)])
    return TaskSnapshot(active, held), len(active) + len(held) == len(tasks.active) + len(tasks.held)


def json_safe_ids(ids: Iterable[Any]) -> list[str]:
    """Return the ids that every database accepts in JSON: a message's headers may hold anything."""
    return [each for each in ids if isinstance(each, str) and len(each) <= MAX_ID_LENGTH and each.isprintable()]
