"""Which tasks a worker holds, as Celery's own lists name them, read from another thread."""

import time
from collections.abc import Iterable
from operator import itemgetter
from typing import Any, NamedTuple

from celery.worker import state
from celery.worker.request import Request

# What a row may carry: at most 0.5 MB of JSON.
MOST_IDS = 10_000


class TaskSnapshot(NamedTuple):
    """The tasks that a worker holds: the running ones with their start, all the others."""

    active: dict[str, float]
    held: set[str]


def snapshot_tasks(consumer: Any) -> TaskSnapshot:
    """Return what Celery's lists name at this moment. None of them names all: the tests show what each leaves out."""
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
    """Return another thread's collection as a list. Raises RuntimeError when it never keeps still."""
    for _ in range(100):
        try:
            return list(collection)
        except RuntimeError:  # it changed meanwhile
            continue
    return list(collection)


def union(holdings: Iterable[TaskSnapshot]) -> TaskSnapshot:
    """Return what any of them names."""
    active: dict[str, float] = {}
    held: set[str] = set()
    for holding in holdings:
        active.update(holding.active)
        held |= holding.held
    return TaskSnapshot(active, held - active.keys())


def truncate(holding: TaskSnapshot, most: int = MOST_IDS) -> tuple[TaskSnapshot, bool]:
    """Return what a row can carry, running tasks first, and whether that is all."""
    active = {each: holding.active[each] for each in json_safe_ids(holding.active)[:most]}
    held = set(json_safe_ids(holding.held)[: most - len(active)])
    return TaskSnapshot(active, held), len(active) + len(held) == len(holding.active) + len(holding.held)


def json_safe_ids(ids: Iterable[Any]) -> list[str]:
    """Return the ids that every database takes as JSON: a message's headers may hold anything."""
    return [each for each in ids if isinstance(each, str) and len(each) <= 255 and each.isprintable()]
