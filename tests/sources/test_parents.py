"""Parents, against the database and a real broker: cancelled, and given their children's outcome."""

import logging
from itertools import count
from uuid import uuid4

import pytest
from django.db import transaction
from freezegun import freeze_time

from apps.sources import claims, parents, runs
from apps.sources.models import CrawlJobSourceResult
from tests.factories import (
    COMMITTED,
    NOW,
    SECOND,
    child,
    fresh,
    parent,
    queued_job,
    running_job,
    sent_child,
    source,
)
from tests.sources.run_helpers import (
    NO_TOTALS,
    TOTALS,
    WRITES,
    as_stored,
    change,
    claimed,
    totals_of,
)

pytestmark = COMMITTED

# --- cancel -----------------------------------------------------------------------------------------------------------


def test_cancel_of_parent_skips_children_and_revokes_tasks(broker):
    job = parent("completed", "failed")
    pending, running, unsent = (child(job, status) for status in ("pending", "running", "pending"))
    change(unsent, task_id="")
    ended = [as_stored(each) for each in job.source_results.filter(status__in=["completed", "failed"])]
    with broker.revokes() as next_revoked:
        with freeze_time(NOW + SECOND):
            assert parents.cancel(job.pk) is True
        assert sorted(next_revoked()) == sorted([pending.task_id, running.task_id])
    for each in (pending, running, unsent):
        after = fresh(each)
        assert after.status == "skipped"
        assert after.completed_at == NOW + SECOND
        assert after.task_id == fresh(each).task_id
    assert [as_stored(each) for each in job.source_results.filter(status__in=["completed", "failed"])] == ended
    after = fresh(job)
    assert after.status == "cancelled"
    assert after.completed_at == NOW + SECOND
    assert after.finalized_at == NOW + SECOND


@pytest.mark.parametrize("status", ["pending", "running", "paused"])
def test_cancel_of_unfinished_job_revokes_its_task(broker, status):
    job, other = queued_job(status=status), running_job()
    before = as_stored(other)
    with broker.revokes() as next_revoked:
        assert parents.cancel(job.pk) is True
        assert next_revoked() == [job.task_id]
    assert fresh(job).status == "cancelled"
    assert as_stored(other) == before


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_cancel_of_ended_job_returns_false(broker, status):
    job = parent("running", status=status)
    (unfinished,) = job.source_results.all()
    before = as_stored(job), as_stored(unfinished)
    assert parents.cancel(job.pk) is False
    assert (as_stored(job), as_stored(unfinished)) == before


def test_cancel_of_unknown_job_returns_false():
    assert parents.cancel(uuid4()) is False


def test_cancel_leaves_children_of_other_jobs(broker):
    other = child(parent(), "running")
    parents.cancel(parent("running").pk)
    assert fresh(other).status == "running"


def test_cancel_rolled_back_revokes_and_finalizes_nothing(broker, monkeypatch):
    revoked = []
    monkeypatch.setattr(parents, "_revoke", revoked.append)
    job = parent("running")
    with transaction.atomic():
        parents.cancel(job.pk)
        transaction.set_rollback(True)
    assert revoked == []
    assert fresh(job).status == "running"
    parents.cancel(job.pk)
    assert len(revoked) == 1


@pytest.mark.parametrize("write", WRITES)
def test_child_cancelled_during_crawl_is_refused_and_parent_stays(broker, write):
    row, claim = claimed(sent_child)
    assert fresh(row.crawl_job).status == "running"
    parents.cancel(row.crawl_job_id)
    before = as_stored(row), as_stored(row.crawl_job)
    with pytest.raises(claims.ClaimLost):
        WRITES[write](claim)
    assert (as_stored(row), as_stored(row.crawl_job)) == before
    assert before[1]["status"] == "cancelled"


@pytest.mark.parametrize("write", WRITES)
def test_job_cancelled_during_crawl_stays_cancelled(broker, write):
    row, claim = claimed(queued_job)
    parents.cancel(row.pk)
    with pytest.raises(claims.ClaimLost):
        WRITES[write](claim)
    assert fresh(row).status == "cancelled"
    assert broker.ids() == []


def test_cancel_with_broker_down_succeeds(refusing_broker, caplog):
    job = parent("running")
    with caplog.at_level(logging.WARNING, "apps.sources.parents"):
        assert parents.cancel(job.pk) is True
    assert fresh(job).finalized_at is not None
    assert "could not revoke 1 tasks of a cancelled job" in caplog.text


def test_cancel_with_hanging_broker_returns_soon(hanging_broker, caplog):
    job = parent("running")
    with caplog.at_level(logging.WARNING, "apps.sources.parents"):
        assert parents.cancel(job.pk) is True
    assert fresh(job).finalized_at is not None
    assert "could not revoke" in caplog.text


def test_cancel_of_job_without_tasks_revokes_nothing(refusing_broker, caplog):
    assert parents.cancel(parent().pk) is True
    assert caplog.text == ""


# --- finalize ---------------------------------------------------------------------------------------------------------

FINALIZED = [
    ("completed completed", "completed", ""),
    ("completed failed skipped", "completed", "1 sources failed; 1 sources skipped"),
    ("failed failed", "failed", "All 2 sources failed"),
    ("failed skipped", "failed", "1 failed, 1 skipped"),
    ("skipped skipped", "cancelled", ""),
]


@pytest.mark.parametrize("status", ["pending", "running"])
@pytest.mark.parametrize(("children", "becomes", "message"), FINALIZED, ids=[row[0] for row in FINALIZED])
def test_finalize_parent_with_ended_children_writes_outcome(children, becomes, message, status):
    job = parent(*children.split(), status=status)
    with freeze_time(NOW + SECOND):
        assert parents.finalize(job.pk) is True
    after = fresh(job)
    assert after.status == becomes
    assert after.error_message == message
    assert after.completed_at == after.finalized_at == NOW + SECOND


@pytest.mark.parametrize("is_multi_source", [True, False])
@pytest.mark.parametrize("with_source", [True, False])
def test_finalize_treats_any_job_with_children_as_parent(is_multi_source, with_source):
    job = parent("completed", source=source() if with_source else None)
    change(job, is_multi_source=is_multi_source)
    assert parents.finalize(job.pk) is True
    assert fresh(job).status == "completed"


@pytest.mark.parametrize("unfinished", ["pending", "running", "from-a-newer-version"])
def test_finalize_parent_with_unfinished_child_does_nothing(unfinished):
    job = parent("completed", "failed", unfinished)
    before = as_stored(job)
    assert parents.finalize(job.pk) is False
    assert as_stored(job) == before


def test_finalize_twice_writes_once():
    job = parent("completed", "failed")
    assert parents.finalize(job.pk) is True
    before = as_stored(job)
    job.source_results.update(status="failed", articles_found=99)
    assert parents.finalize(job.pk) is False
    assert as_stored(job) == before


@pytest.mark.parametrize("status", ["running", "pending", "paused", "cancelled"])
def test_finalized_parent_is_never_finalized_again(status):
    job = parent("completed", status=status, finalized_at=NOW)
    before = as_stored(job)
    assert parents.finalize(job.pk) is False
    assert as_stored(job) == before


def test_finalize_replaces_totals_by_sums_of_children():
    job = parent(total_found=1000, pages_crawled=1000, new_articles=1000, duplicates=1000, errors=1000)
    for number, status in zip(count(1), ["completed", "failed", "skipped"], strict=False):
        counted = {column: number * TOTALS[name] for name, column in runs.TOTALS[CrawlJobSourceResult].items()}
        child(job, status, **counted)
    child(parent(), "completed", pages_crawled=500)
    parents.finalize(job.pk)
    assert totals_of(fresh(job)) == {name: 6 * each for name, each in TOTALS.items()}


@pytest.mark.parametrize("status", ["paused", "cancelled"])
@pytest.mark.parametrize("children", ["completed", "failed failed", "skipped"])
def test_finalize_keeps_status_of_paused_or_cancelled_parent(status, children):
    job = parent(*children.split(), status=status, error_message="as it was")
    with freeze_time(NOW + SECOND):
        assert parents.finalize(job.pk) is True
    after = fresh(job)
    assert after.status == status
    assert after.error_message == "as it was"
    assert after.completed_at == after.finalized_at == NOW + SECOND


def test_finalize_keeps_time_of_cancel():
    job = parent("skipped", status="cancelled", completed_at=NOW - SECOND)
    with freeze_time(NOW):
        parents.finalize(job.pk)
    assert fresh(job).completed_at == NOW - SECOND


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_finalize_leaves_manually_ended_parent(status):
    job = parent("skipped", status=status, error_message="by hand")
    before = as_stored(job)
    assert parents.finalize(job.pk) is False
    assert as_stored(job) == before


@pytest.mark.parametrize("status", ["pending", "running", "cancelled", "paused"])
def test_finalize_of_single_source_job_does_nothing(settings, status):
    job = queued_job(2 * settings.CRAWL_QUEUE_TIMEOUT, status=status)
    before = as_stored(job)
    with freeze_time(NOW):
        assert parents.finalize(job.pk) is False
    assert as_stored(job) == before


@pytest.mark.parametrize(("later", "fails"), [(0 * SECOND, False), (SECOND, True)], ids=["at the limit", "beyond"])
def test_finalize_without_children_fails_parent_after_timeout(settings, later, fails):
    job = parent(status="pending", created_at=NOW)
    before = as_stored(job)
    with freeze_time(NOW + settings.CRAWL_QUEUE_TIMEOUT + later):
        assert parents.finalize(job.pk) is fails
    after = fresh(job)
    if fails:
        assert after.status == "failed"
        assert after.error_message == "no sources"
        assert totals_of(after) == NO_TOTALS
    else:
        assert as_stored(job) == before


def test_finalize_of_unknown_parent_does_nothing():
    assert parents.finalize(uuid4()) is False


def test_finalize_of_one_parent_leaves_others():
    job, other = parent("completed"), parent("completed")
    before = as_stored(other)
    parents.finalize(job.pk)
    assert as_stored(other) == before


@pytest.mark.parametrize("nothing", [None, "", "no uuid", 0, "00000000-0000-4000-8000-000000000000"], ids=str)
def test_runbook_finalizer_ignores_invalid_ids(nothing):
    from apps.sources.tasks import _finalize_parent_job

    _finalize_parent_job(nothing)


@pytest.mark.parametrize("form", [str, lambda pk: pk, lambda pk: pk.hex], ids=["text", "uuid", "hex"])
def test_runbook_finalizer_finalizes_parent(form):
    from apps.sources.tasks import _finalize_parent_job

    job = parent("completed")
    _finalize_parent_job(form(job.pk))
    assert fresh(job).status == "completed"
