"""Small worlds for the tests: sources, runs and parents in the state that a test is about."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from apps.sources.models import CrawlJob, CrawlJobSourceResult, Source

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
# For what happens at a commit, or in several connections. Two apps only: five times faster to clean up.
COMMITTED = pytest.mark.django_db(transaction=True, available_apps=["apps.sources", "reaper"])


def source(**fields):
    return Source.objects.create(name="example", url="http://example.com/", **fields)


def queued_job(ago=timedelta(0), **fields):
    """A job that was dispatched `ago` and waits for a worker."""
    stamps = {"created_at": NOW - ago, "queued_at": NOW - ago, "task_id": str(uuid4())}
    return CrawlJob.objects.create(**{"source": fields.pop("source", None) or source(), **stamps, **fields})


def running_job(ago=timedelta(0), **fields):
    """A job that was claimed `ago`."""
    return queued_job(ago, **{"status": "running", "started_at": NOW - ago, "worker": "celery@w1/abc", **fields})


def parent(*statuses, **fields):
    """A running multi-source job with one child per status; running ones started now, pending ones were sent now."""
    fields = {"status": "running", "started_at": NOW, "created_at": NOW, **fields}
    job = CrawlJob.objects.create(is_multi_source=True, **fields)
    for status in statuses:
        child(job, status)
    return job


def child(job, status, **fields):
    """One child of a parent."""
    stamps = {"created_at": NOW, "queued_at": NOW, "task_id": str(uuid4())}
    if status == "running":
        stamps["started_at"] = NOW
    return CrawlJobSourceResult.objects.create(
        crawl_job=job, source=fields.pop("source", None) or source(), status=status, **{**stamps, **fields}
    )


def fresh(row):
    """The row as the database has it now."""
    return type(row).objects.get(pk=row.pk)


def sent_child(job=None, **fields):
    """One pending child, of a pending parent of its own unless one is given."""
    return child(job or parent(status="pending", started_at=None), "pending", **fields)
