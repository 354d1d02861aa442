"""What the tests of dispatch, claims and parents share: runs of either table, and a task's writes to them."""

import kombu.exceptions
import pytest
import redis.exceptions

from apps.sources import claims, runs
from apps.sources.models import CrawlJob, CrawlJobSourceResult
from tests.factories import (
    fresh,
    queued_job,
    sent_child,
)

TOTALS = {"pages": 5, "found": 4, "new": 3, "duplicates": 2, "errors": 1}
NO_TOTALS = dict.fromkeys(TOTALS, 0)
KINDS = {CrawlJob: "crawl_job", CrawlJobSourceResult: "source_result"}
EVERY_KIND = pytest.mark.parametrize("make", [queued_job, sent_child], ids=KINDS.values())
WRITES = {
    "progress": lambda claim: claim.progress(TOTALS),
    "complete": lambda claim: claim.complete(TOTALS),
    "fail": lambda claim: claim.fail("It did not work.", "error"),
    "release": lambda claim: claim.release(1),
}
# Nothing is committed where everything is refused; so these many are cheap.
NO_COMMIT = pytest.mark.django_db
EVERY_WRITE = pytest.mark.parametrize("write", WRITES)


REFUSES = (kombu.exceptions.OperationalError, redis.exceptions.RedisError)


def as_stored(row):
    """All columns of the row as the database has them."""
    return type(row).objects.filter(pk=row.pk).values().get()


def change(row, **values):
    """Write behind everybody's back."""
    type(row).objects.filter(pk=row.pk).update(**values)
    return fresh(row)


def claim_of(row, task_id=None):
    """The claim of a task that believes the run is its own."""
    task_id = row.task_id if task_id is None else task_id
    return claims.Claim(model=type(row), pk=row.pk, task_id=task_id, worker="celery@w1/abc")


def claimed(make, **fields):
    """A claimed run, and the claim of its task."""
    row = make(**fields)
    claim = claims.claim(type(row), row.pk, row.task_id, "celery@w1/abc")
    return fresh(row), claim


def totals_of(row):
    """The row's totals, by the crawl's own names."""
    return {name: getattr(row, column) for name, column in runs.TOTALS[type(row)].items()}
