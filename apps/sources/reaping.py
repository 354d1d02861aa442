"""The adapters: what the reaper must know of crawl runs."""

from collections.abc import Iterator, Sequence
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db.models import Exists, OuterRef, QuerySet

from apps.sources import dispatch, parents
from apps.sources.models import CrawlJob, CrawlJobSourceResult
from apps.sources.outcomes import ENDED
from apps.sources.runs import Run
from reaper import api
from reaper.adapters import Message, ModelRunAdapter, RunFacts

_POSSIBLE_PARENT_STATUSES = ("running", "pending", "cancelled", "paused")
CHILDREN = CrawlJobSourceResult.objects.filter(crawl_job=OuterRef("pk"))


class _CrawlRuns(ModelRunAdapter):
    """What both kinds share: the task, the columns, and most of the statuses."""

    table: Run
    task = dispatch.TASK
    supports_reopen = True
    queued_statuses = ("pending",)
    running_statuses = ("running",)
    status_after_requeue = "pending"
    status_after_fail = "failed"
    worker_field = "worker"
    queued_field = "queued_at"
    started_field = "started_at"
    progress_field = "heartbeat_at"
    finished_field = "completed_at"
    message_field = "error_message"
    code_field = "error_code"

    def messages(self, runs: Sequence[RunFacts]) -> dict[str, Message]:
        """Return the messages that a dispatch would send."""
        crawl_messages = dispatch.messages(self.table, [run.pk for run in runs])
        return {str(pk): Message(message.args, message.kwargs) for pk, message in crawl_messages}


class CrawlJobs(_CrawlRuns):
    """Jobs of one source. A parent has no task of its own and is not a run."""

    kind = "crawl_job"
    model = "sources.CrawlJob"
    table = CrawlJob
    finished_statuses = ("completed", "failed", "cancelled")
    ignored_statuses = ("paused",)
    status_after_close = "cancelled"

    def queryset(self) -> QuerySet:
        """Return the jobs that are not parents."""
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
        """Yield the parents that are not finalized and have no unfinished child."""
        unfinalized = CrawlJob.objects.using(self.using).filter(finalized_at=None)
        with_source = unfinalized.filter(Exists(CHILDREN), source__isnull=False)
        # Each query reads in the order of an index; asked in any other way, PostgreSQL reads all the jobs. A job that
        # has ended can be a parent only if it has no source.
        queries = [
            *((unfinalized.filter(source=None, status=status), None) for status in _POSSIBLE_PARENT_STATUSES),
            (with_source.filter(status="running"), "started_at"),
            (with_source.filter(status="pending"), "queued_at"),
        ]
        for jobs, order_by in queries:
            for page in api.paginate(jobs, ["pk"], order_by):
                yield from self._without_unfinished_children([row["pk"] for row in page])

    def finalize(self, parent: str) -> bool:
        """Give the parent its outcome."""
        try:
            return parents.finalize(parent)
        except ValidationError:
            return False

    def _without_unfinished_children(self, jobs: list[UUID]) -> Iterator[str]:
        """The jobs with only ended children, and those without any that are too old to still get some."""
        statuses: dict[UUID, set[str]] = {pk: set() for pk in jobs}
        children = CrawlJobSourceResult.objects.using(self.using).filter(crawl_job__in=jobs)
        for job, status in children.order_by().values_list("crawl_job_id", "status").distinct():
            statuses[job].add(status)
        awaiting_children = self._younger_than_queue_timeout([pk for pk in jobs if not statuses[pk]])
        yield from (str(pk) for pk in jobs if statuses[pk] <= ENDED and pk not in awaiting_children)

    def _younger_than_queue_timeout(self, jobs: list[UUID]) -> set[UUID]:
        if not jobs:
            return set()
        limit = api.now(self.using) - settings.CRAWL_QUEUE_TIMEOUT
        young = CrawlJob.objects.using(self.using).filter(pk__in=jobs, created_at__gte=limit)
        return set(young.values_list("pk", flat=True))
