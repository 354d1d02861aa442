"""Jobs with several sources: create them with their children, cancel them, and give them their children's outcome."""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from celery import current_app
from django.conf import settings
from django.db import transaction
from django.db.models import Case, F, Q, QuerySet, Sum, TextField, Value, When
from django.utils import timezone

from apps.sources.dispatch import dispatch_children
from apps.sources.models import CrawlJob, CrawlJobSourceResult, Source
from apps.sources.outcomes import Outcome, outcome
from apps.sources.runs import PENDING, RUNNING, TOTALS

logger = logging.getLogger(__name__)

# kombu's transport options in seconds, each ignored by transports that do not know it.
BROKER_TIMEOUTS = {"socket_timeout": 2, "socket_connect_timeout": 1, "max_retries": 0, "connect_retries_timeout": 1}


def create_parent(sources: Sequence[Source], *, triggered_by: str, overrides: Mapping | None = None) -> CrawlJob:
    """Create a job with one child per source, and dispatch the children after the commit."""
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
    """Cancel an unfinished job: skip its children and revoke all its tasks. Return False if it had ended already."""
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
    """Give a parent the outcome that its children make; return True if this call did it.

    Idempotent, and under the parent's row lock: several finalizers at once write one outcome, once. Unknown ids,
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
    """The parent, unless it has its outcome: a person may have completed or failed it."""
    # guard: a parent is finalized once
    return CrawlJob.objects.filter(pk=parent_pk, finalized_at=None).exclude(status__in=["completed", "failed"])


def _ending(ended: Outcome, now: datetime) -> dict[str, Any]:
    """The columns of an outcome. A parent that is paused or cancelled by then keeps its status, message and end."""
    kept = Q(status__in=["paused", "cancelled"])
    message = Value(ended.message, output_field=TextField())
    return {
        "status": Case(When(kept, then=F("status")), default=Value(ended.status)),
        "error_message": Case(When(kept, then=F("error_message")), default=message),
        "completed_at": Case(When(kept, completed_at__isnull=False, then=F("completed_at")), default=Value(now)),
        "finalized_at": now,
    }


def _totals(children: QuerySet[CrawlJobSourceResult]) -> dict[str, int]:
    """The children's totals, summed each time: a running total would count a child twice that ran twice."""
    child_columns = TOTALS[CrawlJobSourceResult]
    sums = children.aggregate(**{f"sum_{name}": Sum(column, default=0) for name, column in child_columns.items()})
    return {TOTALS[CrawlJob][name]: sums[f"sum_{name}"] for name in child_columns}


def _revoke(task_ids: list[str]) -> None:
    """Revoke tasks whose writes the fence would refuse anyway; so a broker that is down is only logged.

    A connection of its own with time-outs (s): one from the pool whose Redis has died blocks until Redis is back.
    """
    if not task_ids:
        return
    try:
        with current_app.connection_for_write(transport_options=BROKER_TIMEOUTS) as connection:
            connection.ensure_connection(max_retries=0, timeout=1)
            # Not control.revoke(): whatever connection it is given, it publishes through Celery's pool.
            mailbox = current_app.control.mailbox(connection)
            mailbox.producer_pool = None
            mailbox.abcast("revoke", {"task_id": task_ids})
    except Exception as error:
        logger.warning("could not revoke %d tasks of a cancelled job: %s", len(task_ids), error)
