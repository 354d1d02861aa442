"""The Celery tasks: claim, crawl, complete."""

import inspect
import logging
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from celery import Task, shared_task
from celery.exceptions import Ignore, SoftTimeLimitExceeded
from django.conf import settings

from apps.sources import claims, crawler, dispatch, parents
from apps.sources.models import CrawlJob, CrawlJobSourceResult, Source
from apps.sources.runs import Run
from reaper import api

logger = logging.getLogger(__name__)

# A site that could not be reached is tried again this often, at once and under a new task id.
MAX_RETRIES = 2


class CrawlTask(Task):
    """A task whose every dispatch gives its run a new task id, also `crawl_source.delay(…)` in a shell."""

    def apply_async(self, args: Any = None, kwargs: Any = None, task_id: str | None = None, **options: Any) -> Any:
        """Dispatch the run that the arguments name, or a new job if they name none.

        Raises ValueError for a task id of the caller's own and for ids that are none, `NotPending` for a run that is
        not waiting, and what the broker raises.
        """
        if task_id:
            raise ValueError(f"{self.name} makes its own task ids, so task_id={task_id!r} cannot be given.")
        call = inspect.signature(self.run).bind(*(args or ()), **(kwargs or {}))
        overrides = call.arguments.get("config_overrides")
        if overrides and call.arguments.get("parent_job_id"):
            raise ValueError("config_overrides of a child are those of its parent job: set them there.")
        model, pk = find_run(**call.arguments)
        # Stored with the row, because a later attempt is published from the row alone.
        stored = {"config_overrides": overrides} if overrides else {}
        # A job that this call has created itself has no past retries to forget.
        manual = bool(call.arguments.get("crawl_job_id") or call.arguments.get("parent_job_id"))
        return self.AsyncResult(dispatch.dispatch_run(model, pk, manual=manual, stored=stored, **options))


@shared_task(
    bind=True,
    base=CrawlTask,
    time_limit=settings.CRAWL_TIME_LIMIT,
    soft_time_limit=settings.CRAWL_SOFT_TIME_LIMIT,
)
def crawl_source(
    self: Task,
    source_id: str,
    crawl_job_id: str | None = None,
    parent_job_id: str | None = None,
    config_overrides: dict | None = None,
) -> None:
    """Crawl one source for its job, or as a child of the parent job. With neither id, a job is created."""
    request = self.request
    creator = "" if crawl_job_id or parent_job_id else request.id or ""
    model, pk = find_run(source_id, crawl_job_id, parent_job_id, config_overrides, task_id=creator)
    is_inline = request.called_directly or request.is_eager
    task_id = dispatch.assign_task_id(model, pk, manual=True) if is_inline else request.id
    # A worker in which an inline call may run does not report it, so the row must not name that worker.
    worker = ("" if is_inline else api.worker_name()) or f"{request.hostname or 'inline'}/shell"
    try:
        claim = claims.claim(model, pk, task_id, worker)
        crawl(claim, config_overrides or {}, request.retries or 0)
    except claims.ClaimLost as lost:
        raise Ignore() from lost


def find_run(
    source_id: Any,
    crawl_job_id: Any = None,
    parent_job_id: Any = None,
    config_overrides: Mapping | None = None,
    *,
    task_id: str = "",
) -> tuple[Run, uuid.UUID]:
    """Return the model and key of the run that a message means; create the job if it names none.

    Raises ValueError for an id that is not a UUID, or for a source that does not exist or is not that parent's.
    """
    source = as_uuid("source_id", source_id)
    if parent_job_id:
        parent = as_uuid("parent_job_id", parent_job_id)
        child = CrawlJobSourceResult.objects.filter(crawl_job_id=parent, source_id=source).values_list("pk").first()
        if child is None:
            raise ValueError(f"Job {parent} has no child for source {source}.")
        return CrawlJobSourceResult, child[0]
    if crawl_job_id:
        return CrawlJob, as_uuid("crawl_job_id", crawl_job_id)
    if not Source.objects.filter(pk=source).exists():
        raise ValueError(f"There is no source {source}.")
    return CrawlJob, dispatch.create_job(source, triggered_by="api", overrides=config_overrides, task_id=task_id).pk


def as_uuid(name: str, value: Any) -> uuid.UUID:
    """Return the value as a UUID; ValueError names the argument and the value."""
    try:
        return uuid.UUID(str(value))
    except ValueError:
        raise ValueError(f"{name}={value!r} is not a UUID.") from None


def crawl(claim: claims.Claim, overrides: Mapping, retries: int) -> None:
    """Crawl the source of a claimed run, storing the progress page by page, and end the run. Raises `ClaimLost`."""
    totals = {"pages": 0, "found": 0, "new": 0, "duplicates": 0, "errors": 0}
    try:
        url, limits = load_settings(claim, overrides)
        for step in crawler.crawl(url, limits):
            totals = asdict(step)
            claim.progress(totals)
    except claims.ClaimLost:
        raise
    except crawler.Unreachable as error:
        if retries < MAX_RETRIES:
            claim.release(retries + 1)
        else:
            claim.fail(str(error), "unreachable")
    except crawler.CrawlError as error:
        claim.fail(str(error), type(error).__name__.lower())
    except SoftTimeLimitExceeded:
        claim.fail(f"Not done within the soft time limit of {settings.CRAWL_SOFT_TIME_LIMIT} s.", "time_limit")
    except Exception as error:
        logger.exception("crawl of %s failed", claim.pk)
        claim.fail(f"{type(error).__name__}: {error}", "error")
    else:
        claim.complete(totals)


def load_settings(claim: claims.Claim, overrides: Mapping) -> tuple[str, crawler.Limits]:
    """Return the URL to crawl and the limits: the message's settings win over the job's, those over the source's.

    Raises `ConfigError`.
    """
    job = "" if claim.model is CrawlJob else "crawl_job__"
    row = claim.model._default_manager.values("source__url", "source__crawler_config", f"{job}config_overrides")
    url, source_config, job_config = row.get(pk=claim.pk).values()
    for config in (source_config, job_config, overrides):
        if not isinstance(config or {}, Mapping):
            raise crawler.ConfigError(f"The configuration of {url} is a {type(config).__name__}; it must be an object.")
    merged = {**(source_config or {}), **(job_config or {}), **overrides}
    return url, crawler.Limits.from_config(merged, allow_private=settings.CRAWL_ALLOW_PRIVATE)


@shared_task
def crawl_all_active_sources() -> str | None:
    """Crawl every active source, as the children of one new parent; return its id, or None without any source."""
    sources = list(Source.objects.filter(status=Source.Status.ACTIVE))
    if not sources:
        return None
    return str(parents.create_parent(sources, triggered_by="schedule").pk)


def _finalize_parent_job(parent_job_id: Any) -> None:
    """Finalize a parent (the runbook's name for it). None, an unknown id or no id at all is a no-op."""
    try:
        parent = uuid.UUID(str(parent_job_id))
    except ValueError:
        return
    parents.finalize(parent)
