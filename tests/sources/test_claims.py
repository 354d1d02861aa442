"""A task's side of a run, against the database and a real broker: what is written, and what is refused."""

import logging
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.dispatch import Signal
from django.test.utils import CaptureQueriesContext
from freezegun import freeze_time

from apps.sources import claims, runs
from apps.sources.models import CrawlJob, CrawlJobSourceResult
from reaper.models import RefusedWrite
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
)
from tests.sources.run_helpers import (
    EVERY_KIND,
    EVERY_WRITE,
    KINDS,
    NO_COMMIT,
    NO_TOTALS,
    REFUSES,
    TOTALS,
    WRITES,
    as_stored,
    change,
    claim_of,
    claimed,
    totals_of,
)

pytestmark = COMMITTED

# --- claim ------------------------------------------------------------------------------------------------------------


@EVERY_KIND
def test_claim_by_named_task_starts_run(make):
    row = make(heartbeat_at=NOW, completed_at=NOW, pages_crawled=7)
    change(row, **{column: 9 for name, column in runs.TOTALS[type(row)].items() if name != "pages"})
    with freeze_time(NOW + SECOND):
        claim = claims.claim(type(row), row.pk, row.task_id, "celery@w2/def")
    after = fresh(row)
    assert after.status == "running"
    assert after.started_at == NOW + SECOND
    assert after.worker == "celery@w2/def"
    assert after.heartbeat_at is None
    assert after.completed_at is None
    assert totals_of(after) == NO_TOTALS
    assert after.task_id == row.task_id
    assert after.queued_at == row.queued_at
    assert claim == claims.Claim(model=type(row), pk=row.pk, task_id=row.task_id, worker="celery@w2/def")


@EVERY_KIND
def test_claim_touches_no_other_run(make):
    row, other = make(), make()
    before = as_stored(other)
    claims.claim(type(row), row.pk, row.task_id, "w")
    assert as_stored(other) == before


@NO_COMMIT
@EVERY_KIND
@pytest.mark.parametrize(
    "fields",
    [
        {"task_id": "a-later-dispatch"},
        {"task_id": ""},
        {"status": "running"},
        {"status": "completed"},
        {"status": "failed"},
        {"status": "cancelled"},
        {"status": "skipped"},
        {"status": "paused"},
        {"status": "running", "task_id": "a-later-dispatch"},
    ],
    ids=str,
)
def test_claim_by_other_task_or_second_copy_is_refused(make, fields):
    row = make()
    change(row, **fields)
    before = as_stored(row)
    with pytest.raises(claims.ClaimLost):
        claims.claim(type(row), row.pk, row.task_id, "celery@w2/def")
    assert as_stored(row) == before


@pytest.mark.parametrize("model", KINDS, ids=KINDS.values())
def test_claim_of_deleted_run_is_refused(model):
    with pytest.raises(claims.ClaimLost):
        claims.claim(model, uuid4(), "some-id", "w")


def test_claim_with_empty_id_is_refused():
    row = queued_job()
    with pytest.raises(claims.ClaimLost):
        claims.claim(CrawlJob, row.pk, "", "w")


def test_first_claimed_child_starts_only_its_parent():
    row, other = sent_child(), sent_child()
    with freeze_time(NOW):
        claims.claim(CrawlJobSourceResult, row.pk, row.task_id, "w")
    started = fresh(row.crawl_job)
    assert started.status == "running"
    assert started.started_at == NOW
    assert fresh(other.crawl_job).status == "pending"


@pytest.mark.parametrize("status", ["running", "completed", "failed", "cancelled", "paused"])
def test_claimed_child_leaves_parent_that_is_not_pending(status):
    job = parent(status=status, started_at=NOW - SECOND)
    row = sent_child(job)
    before = as_stored(job)
    claims.claim(CrawlJobSourceResult, row.pk, row.task_id, "w")
    assert as_stored(job) == before


# --- progress, complete, fail, release: the task's own writes ---------------------------------------------------------


@EVERY_KIND
def test_progress_is_stored_under_table_column_names(make):
    row, claim = claimed(make)
    with freeze_time(NOW + SECOND):
        claim.progress(TOTALS)
    after = fresh(row)
    assert after.status == "running"
    assert after.heartbeat_at == NOW + SECOND
    assert totals_of(after) == TOTALS


@EVERY_KIND
def test_complete_stores_totals_and_clears_error(make):
    row, claim = claimed(make)
    change(row, error_message="of an earlier attempt", error_code="old")
    with freeze_time(NOW + SECOND):
        claim.complete(TOTALS)
    after = fresh(row)
    assert after.status == "completed"
    assert after.completed_at == NOW + SECOND
    assert totals_of(after) == TOTALS
    assert after.error_message == ""
    assert after.error_code == ""


@EVERY_KIND
def test_fail_stores_reason_and_keeps_totals(make):
    row, claim = claimed(make)
    claim.progress(TOTALS)
    with freeze_time(NOW + SECOND):
        claim.fail("It did not work.", "c" * 60)
    after = fresh(row)
    assert after.status == "failed"
    assert after.completed_at == NOW + SECOND
    assert totals_of(after) == TOTALS
    assert after.error_message == "It did not work."
    assert after.error_code == "c" * 50


@EVERY_KIND
def test_release_requeues_under_new_id_with_retries(broker, make):
    row, claim = claimed(make)
    with freeze_time(NOW + SECOND):
        claim.release(2)
    after = fresh(row)
    assert after.status == "pending"
    assert after.queued_at == NOW + SECOND
    assert after.started_at is None
    assert after.worker == ""
    assert after.task_id not in ("", row.task_id)
    assert [(sent.id, sent.retries) for sent in broker.waiting()] == [(after.task_id, 2)]
    with pytest.raises(claims.ClaimLost):
        claims.claim(type(row), row.pk, row.task_id, "w")
    assert claims.claim(type(row), row.pk, after.task_id, "w")


def test_release_changes_status_and_id_in_one_update(broker):
    _, claim = claimed(queued_job)
    with CaptureQueriesContext(connection) as asked:
        claim.release(1)
    (update,) = [query["sql"] for query in asked if query["sql"].startswith("UPDATE")]
    assert all(f'"{column}" = ' in update.split("WHERE")[0] for column in ("status", "task_id", "queued_at"))


def test_release_refused_by_broker_leaves_run_never_sent(refusing_broker):
    row, claim = claimed(queued_job)
    with pytest.raises(REFUSES):
        claim.release(1)
    after = fresh(row)
    assert after.status == "pending"
    assert after.task_id == ""


@EVERY_WRITE
@EVERY_KIND
def test_write_touches_no_other_run(broker, make, write):
    _, claim = claimed(make)
    other, _ = claimed(make)
    before = as_stored(other)
    WRITES[write](claim)
    assert as_stored(other) == before


@NO_COMMIT
@EVERY_WRITE
@EVERY_KIND
@pytest.mark.parametrize(
    "fields",
    [
        {"task_id": "of-the-next-attempt"},
        {"task_id": ""},
        {"status": "pending"},
        {"status": "completed"},
        {"status": "failed"},
        {"status": "cancelled"},
        {"status": "skipped"},
        {"status": "paused"},
        {"status": "pending", "task_id": "of-the-next-attempt"},
    ],
    ids=str,
)
def test_write_by_task_that_lost_its_run_changes_nothing(broker, make, fields, write):
    row, claim = claimed(make)
    change(row, **fields)
    before = as_stored(row)
    with pytest.raises(claims.ClaimLost):
        WRITES[write](claim)
    assert as_stored(row) == before
    assert broker.ids() == []


@EVERY_WRITE
@EVERY_KIND
def test_write_to_deleted_run_is_refused(broker, make, write):
    row, claim = claimed(make)
    row.delete()
    with pytest.raises(claims.ClaimLost):
        WRITES[write](claim)


@EVERY_WRITE
@EVERY_KIND
def test_refused_write_is_recorded(broker, make, write):
    row, claim = claimed(make)
    change(row, status="failed")
    with pytest.raises(claims.ClaimLost), freeze_time(NOW):
        WRITES[write](claim)
    seen = RefusedWrite.objects.values_list("kind", "run_id", "task_id", "worker", "write", "created_at")
    assert list(seen) == [(KINDS[type(row)], str(row.pk), claim.task_id, "celery@w1/abc", write, NOW)]


@EVERY_KIND
def test_refused_claim_is_recorded(make):
    row = make()
    with pytest.raises(claims.ClaimLost):
        claims.claim(type(row), row.pk, "an-older-id", "celery@w2/def")
    seen = RefusedWrite.objects.values_list("kind", "run_id", "task_id", "worker", "write")
    assert list(seen) == [(KINDS[type(row)], str(row.pk), "an-older-id", "celery@w2/def", "claim")]


def test_refused_write_sends_signal_and_is_logged(monkeypatch, caplog):
    heard, signal = [], Signal()
    signal.connect(lambda **said: heard.append(said), weak=False)
    monkeypatch.setattr(claims, "write_refused", signal)
    claim = claim_of(running_job(), "an-older-id")
    with caplog.at_level(logging.WARNING, "apps.sources.claims"), pytest.raises(claims.ClaimLost):
        claim.progress(TOTALS)
    assert heard == [{"signal": signal, "sender": CrawlJob, "claim": claim, "write": "progress"}]
    assert f"progress of CrawlJob {claim.pk} refused" in caplog.text


def test_accepted_write_is_not_recorded_as_refused(broker):
    _, claim = claimed(queued_job)
    claim.progress(TOTALS)
    claim.complete(TOTALS)
    assert not RefusedWrite.objects.exists()


@pytest.mark.parametrize("write", ["complete", "fail"])
def test_last_child_to_end_finalizes_parent(write):
    row, claim = claimed(sent_child)
    unfinished = child(row.crawl_job, "running")
    WRITES[write](claim)
    assert fresh(row.crawl_job).finalized_at is None
    WRITES[write](claim_of(unfinished))
    after = fresh(row.crawl_job)
    assert after.finalized_at is not None
    assert after.status == {"complete": "completed", "fail": "failed"}[write]


def test_child_end_rolled_back_finalizes_nothing():
    row, claim = claimed(sent_child)
    with transaction.atomic():
        claim.complete(TOTALS)
        transaction.set_rollback(True)
    assert fresh(row).status == "running"
    assert fresh(row.crawl_job).finalized_at is None
