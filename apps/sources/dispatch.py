"""Dispatch: give a pending run a new task id, then publish its message.

The id is stored before the message goes out, so a message can only be claimed by the run that names it; and a new id
makes every older message of the run stale.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from celery import current_app
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from apps.sources.models import CrawlJob, CrawlJobSourceResult
from apps.sources.runs import PENDING, Run
from reaper import api

# By name, because `tasks.py` imports this module.
TASK = "apps.sources.tasks.crawl_source"
# Children are dispatched in batches, so that queued_at is close to when a child's own message goes out.
BATCH = 100


class NotPending(Exception):
    """The run is not waiting for a dispatch."""


class CrawlMessage(NamedTuple):
    """The arguments of `crawl_source` for one run."""

    args: list[str]
    """The source's id."""
    kwargs: dict[str, str]
    """The job's id as `crawl_job_id`, or that of a child's parent as `parent_job_id`."""


def new_task_id() -> str:
    """Return a random task id. Ids are never used twice and never derived from anything."""
    return str(uuid.uuid4())


def create_job(source_id: Any, *, triggered_by: str, overrides: Mapping | None = None, task_id: str = "") -> CrawlJob:
    """Create the job of a single source, or return the one that was created under this task id before."""
    values = {"source_id": source_id, "triggered_by": triggered_by, "config_overrides": dict(overrides or {})}
    if task_id:
        return CrawlJob.objects.get_or_create(task_id=task_id, defaults={**values, "queued_at": timezone.now()})[0]
    return CrawlJob.objects.create(**values)


def dispatch_run(
    model: Run, pk: Any, *, manual: bool = False, stored: Mapping[str, Any] | None = None, **options: Any
) -> str:
    """Give a pending run a new task id and publish its task; return the id.

    `manual`: a person asked for it, so the reaper gives the run all its retries anew; `stored`: further columns to
    write with the id; `options`: Celery's publishing options. Inside an open transaction the message waits for the
    commit. Raises `NotPending`, and what the broker raises.
    """
    with transaction.atomic():
        task_id = assign_task_id(model, pk, manual=manual, **(stored or {}))
        transaction.on_commit(partial(publish, model, pk, task_id, **options))
    return task_id


def assign_task_id(model: Run, pk: Any, *, manual: bool, **stored: Any) -> str:
    """Give a pending run a new task id without publishing. Raises `NotPending`."""
    task_id = new_task_id()
    with transaction.atomic():
        # guard: dispatch: the status
        pending = model._default_manager.filter(pk=pk, status=PENDING)
        if model is CrawlJob:
            # A parent has no task of its own.
            pending = pending.filter(~Exists(CrawlJobSourceResult.objects.filter(crawl_job=OuterRef("pk"))))
            pending = pending.filter(source__isnull=False)
        if not pending.update(task_id=task_id, queued_at=timezone.now(), **stored):
            raise NotPending(f"{model.__name__} {pk} is not pending (or no run), so it cannot be dispatched.")
        if manual:
            api.record_manual_dispatch(model, pk, task_id)
    return task_id


def dispatch_children(parent_pk: Any) -> None:
    """Dispatch the children of a parent that were never sent. One that the reaper has sent in the meantime is left."""
    unsent = CrawlJobSourceResult.objects.filter(crawl_job_id=parent_pk, status=PENDING, task_id="")
    pks = list(unsent.values_list("pk", flat=True))
    for start in range(0, len(pks), BATCH):
        ids = {pk: new_task_id() for pk in pks[start : start + BATCH]}
        with transaction.atomic():
            assigned = [pk for pk in ids if unsent.filter(pk=pk).update(task_id=ids[pk], queued_at=timezone.now())]
        while assigned:
            try:
                publish(CrawlJobSourceResult, assigned[0], ids[assigned.pop(0)])
            except Exception:
                # The rest has not gone out either. Without an id the reaper sees that they were never sent.
                for pk in assigned:
                    clear_task_id(CrawlJobSourceResult, pk, ids[pk])
                raise


def publish(model: Run, pk: Any, task_id: str, **options: Any) -> None:
    """Publish the message of a run that has its task id. If that fails, take the id back and raise the error."""
    try:
        for _, message in messages(model, [pk]):
            send(message, task_id, **options)
    except Exception:
        clear_task_id(model, pk, task_id)
        raise


def clear_task_id(model: Run, pk: Any, task_id: str) -> None:
    """Take back the id of a message that did not go out, unless the run has been dispatched again."""
    # guard: failed publish: the status
    # guard: failed publish: the task
    model._default_manager.filter(pk=pk, status=PENDING, task_id=task_id).update(task_id="")


def messages(model: Run, pks: Iterable[Any]) -> Iterator[tuple[uuid.UUID, CrawlMessage]]:
    """Yield each run's key with its message; a run that no longer exists has none."""
    argument, column = ("crawl_job_id", "pk") if model is CrawlJob else ("parent_job_id", "crawl_job_id")
    rows = model._default_manager.filter(pk__in=list(pks)).values_list("pk", "source_id", column)
    for pk, source, job in rows:
        yield pk, CrawlMessage([str(source)], {argument: str(job)})


def send(message: CrawlMessage, task_id: str, **options: Any) -> None:
    """Hand a message to the broker."""
    current_app.send_task(TASK, message.args, message.kwargs, task_id=task_id, **options)
