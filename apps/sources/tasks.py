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

from apps.sources import crawler, journal, network, runs
from apps.sources.models import CrawlJob, CrawlJobSourceResult, Source

logger = logging.getLogger(__name__)

# A site that could not be reached is tried again this often, at once and under a new task id.
MAX_RETRIES = 2


def worker_name() -> str:
    """Return the name of the worker that this runs in. `reaping.py` puts the reaper's answer in the place of this."""
    return ""


class CrawlTask(Task):
    """A task whose every dispatch stamps its run anew, also one by hand (`crawl_source.delay(…)`)."""

    def apply_async(self, args: Any = None, kwargs: Any = None, task_id: str | None = None, **options: Any) -> Any:
        """Dispatch the run that the arguments name; a job is made when they name none.

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
        # A job that this call has made itself has no past to forget.
        by_hand = bool(call.arguments.get("crawl_job_id") or call.arguments.get("parent_job_id"))
        return self.AsyncResult(runs.dispatch(model, pk, by_hand=by_hand, stored=stored, **options))


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
    """Crawl one source for its job, or for its share of the parent job. With neither id it makes its own job."""
    request = self.request
    made_by = "" if crawl_job_id or parent_job_id else request.id or ""
    model, pk = find_run(source_id, crawl_job_id, parent_job_id, config_overrides, task_id=made_by)
    inline = request.called_directly or request.is_eager
    task_id = runs.assign_task_id(model, pk, by_hand=True) if inline else request.id
    # Nobody vouches for an inline call: the worker that it may run in does not know of its task.
    worker = ("" if inline else worker_name()) or f"{request.hostname or 'inline'}/shell"
    try:
        hold = runs.claim(model, pk, task_id, worker)
        journal.note("claimed", run=pk, task_id=task_id, worker=worker)
        crawl(hold, config_overrides or {}, request.retries or 0)
    except runs.ClaimLost as refusal:
        journal.note("refused", run=pk, task_id=task_id, why=str(refusal))
        raise Ignore() from refusal


def find_run(
    source_id: Any,
    crawl_job_id: Any = None,
    parent_job_id: Any = None,
    config_overrides: Mapping | None = None,
    *,
    task_id: str = "",
) -> tuple[runs.Run, uuid.UUID]:
    """Return the model and key of the run that a message means; make the job when it names none.

    Raises ValueError for an id that is no UUID, or for a source that is not there or not that parent's.
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
    return CrawlJob, runs.create_job(source, triggered_by="api", overrides=config_overrides, task_id=task_id).pk


def as_uuid(name: str, value: Any) -> uuid.UUID:
    """Return the value as a UUID; ValueError names the argument and the value."""
    try:
        return uuid.UUID(str(value))
    except ValueError:
        raise ValueError(f"{name}={value!r} is not a UUID.") from None


def crawl(hold: runs.Claim, overrides: Mapping, retries: int) -> None:
    """Crawl the held run's source, page by page through the fence, and end the run. Raises `Refused`."""
    totals = {"pages": 0, "found": 0, "new": 0, "duplicates": 0, "errors": 0}
    try:
        url, limits = settings_of(hold, overrides)
        for step in crawler.crawl(url, limits):
            totals = asdict(step)
            hold.progress(totals)
    except runs.ClaimLost:
        raise
    except network.Unreachable as error:
        if retries < MAX_RETRIES:
            end(hold, "release", retries + 1)
        else:
            end(hold, "fail", str(error), "unreachable")
    except network.CrawlError as error:
        end(hold, "fail", str(error), type(error).__name__.lower())
    except SoftTimeLimitExceeded:
        end(hold, "fail", f"Not done within the soft time limit of {settings.CRAWL_SOFT_TIME_LIMIT} s.", "time_limit")
    except Exception as error:
        logger.exception("crawl of %s failed", hold.pk)
        end(hold, "fail", f"{type(error).__name__}: {error}", "error")
    else:
        end(hold, "complete", totals)


def end(hold: runs.Claim, write: str, *args: Any) -> None:
    """Note in the journal that the task is about to let go of its run, then do so."""
    journal.note("ending", run=hold.pk, task_id=hold.task_id, write=write)
    getattr(hold, write)(*args)


def settings_of(hold: runs.Claim, overrides: Mapping) -> tuple[str, crawler.Limits]:
    """Return the URL to crawl and the limits: the source's, its job's above them, the message's above those."""
    job = "" if hold.model is CrawlJob else "crawl_job__"
    row = hold.model._default_manager.values("source__url", "source__crawler_config", f"{job}config_overrides")
    url, config, of_job = row.get(pk=hold.pk).values()
    for each in (config, of_job, overrides):
        if not isinstance(each or {}, Mapping):
            raise network.ConfigError(f"The configuration of {url} is a {type(each).__name__}; it must be an object.")
    merged = {**(config or {}), **(of_job or {}), **overrides}
    return url, crawler.Limits.from_config(merged, allow_private=settings.CRAWL_ALLOW_PRIVATE)


@shared_task
def crawl_all_active_sources() -> str | None:
    """Crawl every active source, as the children of one new parent; return its id, or None without any source."""
    sources = list(Source.objects.filter(status=Source.Status.ACTIVE))
    if not sources:
        return None
    return str(runs.create_parent(sources, triggered_by="schedule").pk)


def _finalize_parent_job(parent_job_id: Any) -> None:
    """Finalize a parent (the runbook's name for it). None, an unknown id or no id at all is a no-op."""
    try:
        parent = uuid.UUID(str(parent_job_id))
    except ValueError:
        return
    runs.finalize(parent)
