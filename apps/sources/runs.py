"""Every change of a run's state: dispatch, claim, progress, complete, fail, release, cancel, finalize.

The fence: each is one conditional UPDATE. A task may touch its row only while the row still carries that task's id and
the phase that allows it. Both are needed: the status alone lets a zombie finish its successor's attempt, the id alone
lets a late task resurrect a run that has ended. 0 rows changed is a normal answer: the task has lost its run and stops.
"""

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from celery import current_app
from django.conf import settings
from django.db import transaction
from django.db.models import Case, Exists, F, OuterRef, Q, QuerySet, Sum, TextField, Value, When
from django.dispatch import Signal
from django.utils import timezone

from apps.sources.models import CrawlJob, CrawlJobSourceResult, Source
from apps.sources.outcomes import outcome

logger = logging.getLogger(__name__)

Run = type[CrawlJob] | type[CrawlJobSourceResult]
Message = tuple[list[str], dict[str, str]]
PENDING, RUNNING = "pending", "running"  # the same words in both tables
TASK = "apps.sources.tasks.crawl_source"
# Children are dispatched in batches, so that queued_at is when a child's own message goes out.
BATCH = 100

# Sent when a task's write was refused. Arguments: hold (Hold), write (str).
write_refused = Signal()
# Sent inside the transaction of a dispatch that a person or another program made. Arguments: model, pk, task_id.
manually_dispatched = Signal()

# Column names of the totals: what the crawl counts -> the table's own name.
TOTALS: dict[Run, dict[str, str]] = {
    CrawlJob: {
        "pages": "pages_crawled",
        "found": "total_found",
        "new": "new_articles",
        "duplicates": "duplicates",
        "errors": "errors",
    },
    CrawlJobSourceResult: {
        "pages": "pages_crawled",
        "found": "articles_found",
        "new": "articles_new",
        "duplicates": "articles_duplicate",
        "errors": "errors_count",
    },
}


class NotPending(Exception):
    """A dispatch of a run that is not waiting for one."""


class ClaimLost(Exception):
    """The run is no longer this task's: its write changed nothing, and the task must stop."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A task's hold on its run. Every method is one conditional UPDATE and raises `Refused` when the hold is lost."""

    model: Run
    pk: uuid.UUID
    task_id: str
    worker: str

    def progress(self, totals: Mapping[str, int]) -> None:
        """Record how far the crawl has come, and that it is alive."""
        self._write("progress", {"heartbeat_at": timezone.now(), **columns(self.model, totals)})

    def complete(self, totals: Mapping[str, int]) -> None:
        """End the run well."""
        self._end("complete", status="completed", error_message="", error_code="", **columns(self.model, totals))

    def fail(self, message: str, code: str) -> None:
        """End the run badly; `message` is a sentence for a person, `code` a word for a machine."""
        self._end("fail", status="failed", error_message=message, error_code=code[:50])

    def release(self, retries: int) -> None:
        """Give the run back and dispatch it again under a new id. Celery's own retry would keep the id, and with it
        an old attempt could end the new one."""
        task_id = new_task_id()
        again = partial(publish, self.model, self.pk, task_id, retries=retries)
        values = {"status": PENDING, "task_id": task_id, "queued_at": timezone.now(), "started_at": None, "worker": ""}
        self._write("release", values, then=again)

    def _end(self, write: str, **values: Any) -> None:
        # Only after the commit: two children ending together must each see the other's end, and nobody may wait for
        # the parent's lock while holding a child's.
        then = partial(finalize_parent_of, self.pk) if self.model is CrawlJobSourceResult else None
        self._write(write, {"completed_at": timezone.now(), **values}, then=then)

    def _write(self, write: str, values: Mapping[str, Any], *, then: Callable[[], Any] | None = None) -> None:
        """Write if the run is still mine, and do `then` after the commit; otherwise refuse."""
        # guard: writes: the status
        # guard: writes: the task
        mine = self.model._default_manager.filter(pk=self.pk, status=RUNNING, task_id=self.task_id)
        with transaction.atomic():
            written = mine.update(**values)
            if written and then:
                transaction.on_commit(then)
        # Outside of the transaction, which the exception would roll back with the note of the refusal in it.
        if not written:
            self.refuse(write)

    def refuse(self, write: str) -> None:
        """Announce that the hold is lost, and raise `Refused`."""
        logger.warning("%s of %s %s refused: it is not task %s's", write, self.model.__name__, self.pk, self.task_id)
        write_refused.send(sender=self.model, hold=self, write=write)
        raise ClaimLost(f"{write} of {self.model.__name__} {self.pk} by task {self.task_id}")


def new_task_id() -> str:
    """Return a random task id. Ids are never used twice and never derived from anything."""
    return str(uuid.uuid4())


def columns(model: Run, totals: Mapping[str, int]) -> dict[str, int]:
    """Return the totals under the table's own column names."""
    return {TOTALS[model][name]: count for name, count in totals.items()}


# --- dispatch -----------------------------------------------------------------------------------------------------


def assign_task_id(model: Run, pk: Any, *, by_hand: bool, **values: Any) -> str:
    """Give a pending run a new task id, which makes every older message of it stale. Raises `NotPending`."""
    task_id = new_task_id()
    with transaction.atomic():
        # guard: dispatch: the status
        pending = model._default_manager.filter(pk=pk, status=PENDING)
        if model is CrawlJob:
            # A parent has no task of its own.
            pending = pending.filter(~Exists(CrawlJobSourceResult.objects.filter(crawl_job=OuterRef("pk"))))
            pending = pending.filter(source__isnull=False)
        if not pending.update(task_id=task_id, queued_at=timezone.now(), **values):
            raise NotPending(f"{model.__name__} {pk} is not pending (or no run), so it cannot be dispatched.")
        if by_hand:
            manually_dispatched.send(sender=model, pk=pk, task_id=task_id)
    return task_id


def dispatch(
    model: Run, pk: Any, *, by_hand: bool = False, stored: Mapping[str, Any] | None = None, **options: Any
) -> str:
    """Stamp a pending run and publish its task; return the task's id.

    `stored`: further columns to write with the stamp; `options`: Celery's publishing options. Inside an open
    transaction the message waits for the commit. Raises `NotPending`, and what the broker raises.
    """
    with transaction.atomic():
        task_id = assign_task_id(model, pk, by_hand=by_hand, **(stored or {}))
        transaction.on_commit(partial(publish, model, pk, task_id, **options))
    return task_id


def dispatch_children(parent_pk: Any) -> None:
    """Dispatch the children of a parent that were never sent. One that the reaper sent meanwhile is left as it is."""
    unsent = CrawlJobSourceResult.objects.filter(crawl_job_id=parent_pk, status=PENDING, task_id="")
    pks = list(unsent.values_list("pk", flat=True))
    for start in range(0, len(pks), BATCH):
        ids = {pk: new_task_id() for pk in pks[start : start + BATCH]}
        with transaction.atomic():
            sent = [pk for pk in ids if unsent.filter(pk=pk).update(task_id=ids[pk], queued_at=timezone.now())]
        while sent:
            try:
                publish(CrawlJobSourceResult, sent[0], ids[sent.pop(0)])
            except Exception:
                # The rest has not gone out either: without an id each is seen to have never been sent.
                for pk in sent:
                    clear_task_id(CrawlJobSourceResult, pk, ids[pk])
                raise


def publish(model: Run, pk: Any, task_id: str, **options: Any) -> None:
    """Publish a stamped run's message. When that fails the id is emptied again, and the caller is told."""
    try:
        for _, message in messages(model, [pk]):
            send(message, task_id, **options)
    except Exception:
        clear_task_id(model, pk, task_id)
        raise


def clear_task_id(model: Run, pk: Any, task_id: str) -> None:
    """Take back the id of a message that did not go out, unless the run has been dispatched anew."""
    # guard: a failed publish: the status
    # guard: a failed publish: the task
    model._default_manager.filter(pk=pk, status=PENDING, task_id=task_id).update(task_id="")


def messages(model: Run, pks: Iterable[Any]) -> Iterator[tuple[uuid.UUID, Message]]:
    """Yield each run's key with its message's positional and keyword arguments; a run that is gone has none."""
    named, column = ("crawl_job_id", "pk") if model is CrawlJob else ("parent_job_id", "crawl_job_id")
    rows = model._default_manager.filter(pk__in=list(pks)).values_list("pk", "source_id", column)
    for pk, source, job in rows:
        yield pk, ([str(source)], {named: str(job)})


def send(message: Message, task_id: str, **options: Any) -> None:
    """Hand a message to the broker, by the task's name: the layer of the tasks lies above this one."""
    args, kwargs = message
    current_app.send_task(TASK, args, kwargs, task_id=task_id, **options)


# --- the task's side ----------------------------------------------------------------------------------------------


def claim(model: Run, pk: Any, task_id: str, worker: str) -> Claim:
    """Take a run for the task that its row names. Raises `Refused` for every other task, and for a second copy."""
    hold = Claim(model=model, pk=pk, task_id=task_id, worker=worker)
    # guard: claim: the status
    # guard: claim: the task
    waiting = model._default_manager.filter(pk=pk, status=PENDING, task_id=task_id)
    reset = dict.fromkeys(TOTALS[model].values(), 0)
    now = timezone.now()
    if not waiting.update(status=RUNNING, started_at=now, worker=worker, heartbeat_at=None, completed_at=None, **reset):
        hold.refuse("claim")
    if model is CrawlJobSourceResult:
        parents = CrawlJob.objects.filter(source_results=pk, status=PENDING).values("pk")
        CrawlJob.objects.filter(pk__in=parents, status=PENDING).update(status=RUNNING, started_at=now)
    return hold


# --- jobs and parents ---------------------------------------------------------------------------------------------


def create_job(source_id: Any, *, triggered_by: str, overrides: Mapping | None = None, task_id: str = "") -> CrawlJob:
    """Make the job of a single source, or find the one that this task id made before."""
    values = {"source_id": source_id, "triggered_by": triggered_by, "config_overrides": dict(overrides or {})}
    if task_id:
        return CrawlJob.objects.get_or_create(task_id=task_id, defaults={**values, "queued_at": timezone.now()})[0]
    return CrawlJob.objects.create(**values)


def create_parent(sources: Sequence[Source], *, triggered_by: str, overrides: Mapping | None = None) -> CrawlJob:
    """Make a multi-source job with one child per source, and dispatch the children after the commit."""
    with transaction.atomic():
        parent = CrawlJob.objects.create(
            is_multi_source=True, triggered_by=triggered_by, config_overrides=dict(overrides or {})
        )
        CrawlJobSourceResult.objects.bulk_create(
            [CrawlJobSourceResult(crawl_job=parent, source=source) for source in sources]
        )
        transaction.on_commit(partial(dispatch_children, parent.pk))
    return parent


def cancel(job_pk: Any) -> bool:
    """Cancel an unfinished job: its children are skipped and all its tasks revoked. False when it had ended."""
    job = CrawlJob.objects.filter(pk=job_pk, status__in=[PENDING, RUNNING, "paused"])
    unfinished = CrawlJobSourceResult.objects.filter(crawl_job_id=job_pk, status__in=[PENDING, RUNNING])
    now = timezone.now()
    with transaction.atomic():
        if not job.update(status="cancelled", completed_at=now):
            return False
        children = dict(unfinished.select_for_update().values_list("pk", "task_id"))
        unfinished.filter(pk__in=children).update(status="skipped", completed_at=now)
        own = CrawlJob.objects.values_list("task_id", flat=True).get(pk=job_pk)
        transaction.on_commit(partial(_revoke, [task_id for task_id in (own, *children.values()) if task_id]))
        transaction.on_commit(partial(finalize, job_pk))
    return True


def finalize_parent_of(child_pk: Any) -> None:
    """Finalize the parent of a child that has ended, if it was the last one."""
    for parent in CrawlJobSourceResult.objects.filter(pk=child_pk).values_list("crawl_job_id", flat=True):
        finalize(parent)


def finalize(parent_pk: Any) -> bool:
    """Give a parent the outcome that its children make; True when this call did it.

    Idempotent, and under the parent's row lock: several finalizers at once make one outcome, once. Unknown ids,
    parents with unfinished children, and jobs that are no parent are left as they are.
    """
    with transaction.atomic():
        parent = _unfinalized(parent_pk).select_for_update().first()
        if parent is None:
            return False
        children = parent.source_results.all()
        statuses = list(children.values_list("status", flat=True))
        if parent.source_id and not statuses:
            return False
        now = timezone.now()
        ended = outcome(statuses, waited_too_long=now - parent.created_at > settings.CRAWL_QUEUE_TIMEOUT)
        if ended is None:
            return False
        return bool(_unfinalized(parent_pk).update(**_ending(ended, now), **_totals(children)))


def _unfinalized(parent_pk: Any) -> QuerySet[CrawlJob]:
    """A parent that somebody has completed or failed by hand has its outcome already."""
    # guard: a parent is finalized once
    return CrawlJob.objects.filter(pk=parent_pk, finalized_at=None).exclude(status__in=["completed", "failed"])


def _ending(ended: Any, now: Any) -> dict[str, Any]:
    """A paused or cancelled parent keeps its status, its message and its end, also when that came just before."""
    kept = Q(status__in=["paused", "cancelled"])
    message = Value(ended.message, output_field=TextField())
    return {
        "status": Case(When(kept, then=F("status")), default=Value(ended.status)),
        "error_message": Case(When(kept, then=F("error_message")), default=message),
        "completed_at": Case(When(kept, completed_at__isnull=False, then=F("completed_at")), default=Value(now)),
        "finalized_at": now,
    }


def _totals(children: QuerySet[CrawlJobSourceResult]) -> dict[str, int]:
    """Sum the children anew every time: a running total would count a child twice that ran twice."""
    of_child, of_job = TOTALS[CrawlJobSourceResult], TOTALS[CrawlJob]
    sums = children.aggregate(**{f"sum_{name}": Sum(column, default=0) for name, column in of_child.items()})
    return {of_job[name]: sums[f"sum_{name}"] for name in of_child}


def _revoke(task_ids: list[str]) -> None:
    """Spare the workers messages that the fence would refuse anyway; so a broker that is down is no error.

    A connection of its own with bounds: one from the pool whose Redis has died blocks until Redis is back.
    """
    bounds = {"socket_timeout": 2, "socket_connect_timeout": 1, "max_retries": 0, "connect_retries_timeout": 1}
    if not task_ids:
        return
    try:
        with current_app.connection_for_write(transport_options=bounds) as connection:
            connection.ensure_connection(max_retries=0, timeout=1)
            # Not control.revoke(): whatever connection it is given, it publishes through Celery's pool.
            mailbox = current_app.control.mailbox(connection)
            mailbox.producer_pool = None
            mailbox.abcast("revoke", {"task_id": task_ids})
    except Exception as error:
        logger.warning("could not revoke %d tasks of a cancelled job: %s", len(task_ids), error)
