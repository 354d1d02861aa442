"""What the reaper must know of crawl runs. The only file here that imports it."""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db.models import Exists, OuterRef, QuerySet
from django.dispatch import receiver

from apps.sources import runs, tasks
from apps.sources.models import CrawlJob, CrawlJobSourceResult
from apps.sources.outcomes import ENDED
from reaper.adapters import Message, ModelRunAdapter
from reaper.admin.run_views import ReaperRunAdminMixin as ReaperRunAdminMixin
from reaper.conf import clock
from reaper.conf import settings as conf
from reaper.core.facts import RunFacts
from reaper.db import pagination as rows
from reaper.ledger import records as ledger
from reaper.workers import heartbeat as reporter

# A run names the worker whose reports vouch for it.
tasks.worker_name = reporter.worker_name

CHILDREN = CrawlJobSourceResult.objects.filter(crawl_job=OuterRef("pk"))


class _CrawlRuns(ModelRunAdapter):
    """What both kinds share: they are crawled by one task and have the same columns."""

    table: runs.Run
    task = runs.TASK
    supports_reopen = True
    queued_statuses = ("pending",)
    running_statuses = ("running",)
    status_after_requeue, status_after_fail = "pending", "failed"
    worker_field = "worker"
    queued_field = "queued_at"
    started_field = "started_at"
    progress_field = "heartbeat_at"
    finished_field = "completed_at"
    message_field = "error_message"
    code_field = "error_code"

    def messages(self, of: Sequence[RunFacts]) -> dict[str, Message]:
        """Return the messages that a dispatch would send."""
        return {str(pk): Message(*message) for pk, message in runs.messages(self.table, [r.pk for r in of])}


class CrawlJobs(_CrawlRuns):
    """Jobs of one source. A parent has no task of its own and is no run."""

    kind = "crawl_job"
    model = "sources.CrawlJob"
    table = CrawlJob
    finished_statuses = ("completed", "failed", "cancelled")
    ignored_statuses = ("paused",)
    status_after_close = "cancelled"

    def queryset(self) -> QuerySet:
        """Return the jobs that are no parents."""
        return super().queryset().filter(~Exists(CHILDREN), source__isnull=False)


class SourceResults(_CrawlRuns):
    """The children of multi-source jobs."""

    kind = "source_result"
    model = "sources.CrawlJobSourceResult"
    table = CrawlJobSourceResult
    finished_statuses = ("completed", "failed", "skipped")
    status_after_close = "skipped"
    parent_field = "crawl_job"
    parent_finished_statuses = ("completed", "failed", "cancelled")

    def iter_finalizable_parents(self) -> Iterator[str]:
        """Yield the jobs that are no runs, are not finalized, and have no child that is still unfinished."""
        jobs = CrawlJob.objects.using(self.using).filter(finalized_at=None)
        with_source = jobs.filter(Exists(CHILDREN), source__isnull=False)
        # A job that has ended can only be a parent when it has no source. Each query has an index that is in its order:
        # asked for in any other way, PostgreSQL reads all the jobs that there are.
        statuses = ("running", "pending", "cancelled", "paused")
        for found, by in (
            *((jobs.filter(source=None, status=status), None) for status in statuses),
            (with_source.filter(status="running"), "started_at"),
            (with_source.filter(status="pending"), "queued_at"),
        ):
            for page in rows.paginate(found, ["pk", by] if by else ["pk"], by):
                yield from self._without_unfinished([row["pk"] for row in page])

    def _without_unfinished(self, parents: list[UUID]) -> Iterator[str]:
        """Those of the jobs that wait for no child: none is unfinished, and none is still to be made."""
        children: dict[UUID, set[str]] = {pk: set() for pk in parents}
        of_these = CrawlJobSourceResult.objects.using(self.using).filter(crawl_job__in=parents)
        for parent, status in of_these.order_by().values_list("crawl_job_id", "status").distinct():
            children[parent].add(status)
        latest = clock.now(self.using) - settings.CRAWL_QUEUE_TIMEOUT
        childless = [pk for pk, statuses in children.items() if not statuses]
        young = CrawlJob.objects.using(self.using).filter(pk__in=childless, created_at__gte=latest)
        awaited = set(young.values_list("pk", flat=True)) if childless else set()
        yield from (str(pk) for pk, statuses in children.items() if statuses <= ENDED and pk not in awaited)

    def finalize(self, parent: str) -> bool:
        """Give the parent its outcome."""
        try:
            return runs.finalize(parent)
        except ValidationError:
            return False


def adapter_of(model: Any) -> ModelRunAdapter:
    """Return the adapter of one of the two models."""
    return conf.adapters()["crawl_job" if model is CrawlJob else "source_result"]  # type: ignore[return-value]


@receiver(runs.write_refused)
def note_refused(sender: Any, hold: runs.Claim, write: str, **_: Any) -> None:
    """Show a refused late write to the reaper's operators."""
    adapter = adapter_of(sender)
    now = clock.now(adapter.using)
    ledger.record_refused_write(adapter, hold.pk, now, task_id=hold.task_id, worker=hold.worker, write=write)


@receiver(runs.manually_dispatched)
def note_dispatch(sender: Any, pk: Any, task_id: str, **_: Any) -> None:
    """Start the run's budgets anew: a person has looked at it."""
    adapter = adapter_of(sender)
    ledger.record_manual_dispatch(adapter, pk, task_id, clock.now(adapter.using))
