"""Guarded writes: run and ledger entry together or not at all, whatever the database and other writers do."""

import threading
from contextlib import contextmanager

import pytest
from django.db import connection, transaction
from freezegun import freeze_time

from apps.sources.models import CrawlJob, Source
from apps.sources.reaping import CrawlJobs
from reaper.controls import modes as switches
from reaper.core.facts import Phase
from reaper.core.serialization import facts_from_json
from reaper.models import LedgerEntry
from reaper.sweeps.sweep import sweep as sweep_phase
from reaper.sweeps.writer import MAX_DB_ERRORS
from tests.factories import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    fresh,
    held_job,
    lost_job,
    running_job,
)
from tests.reaper.sweeps.helpers import (
    LOST,
    on_postgresql,
    refuse_ledger_rows,
    sweep,
    sweep_queued,
    within,
)
from tests.servers import killed

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


@contextmanager
def slow_writes(of=None):
    """The database takes longer for a write of these jobs, or of all, than it is given."""
    named = f"NEW.id IN ({', '.join(repr(str(job.pk)) for job in of)})" if of else "TRUE"
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN IF {named} THEN PERFORM pg_sleep(60); END IF; RETURN NEW; END $$"
        )
        cursor.execute("CREATE TRIGGER dawdle BEFORE UPDATE ON crawl_jobs FOR EACH ROW EXECUTE FUNCTION dawdle()")
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP TRIGGER dawdle ON crawl_jobs; DROP FUNCTION dawdle")


@pytest.fixture
def impatient(monkeypatch):
    """Statements are given little time."""
    monkeypatch.setattr("reaper.db.transactions.STATEMENT_TIMEOUT", "100ms")


def test_ledger_entry_has_decision_facts_and_evidence():
    stuck = lost_job(LOST)
    row = sweep_queued()
    reaping = LedgerEntry.objects.get()
    assert reaping.sweep == row
    assert reaping.created_at == NOW
    assert reaping.kind == "crawl_job"
    assert reaping.phase == "queued"
    assert reaping.action == "requeue"
    assert reaping.reason == "lost"
    assert reaping.actor == ""
    assert not reaping.exhausted
    assert not reaping.terminate
    assert reaping.task_id == stuck.task_id
    assert reaping.new_task_id == fresh(stuck).task_id
    assert row.revoked_at == NOW
    assert reaping.published_at == NOW
    assert "rule lost" in reaping.message
    assert reaping.facts["queued_at"] == (NOW - LOST).isoformat()
    assert facts_from_json(reaping.facts).history.redispatches == 0
    assert "history" not in reaping.facts
    known = {
        name: reaping.evidence[name]
        for name in ("message_location", "witness", "first_sighting_at", "queue", "waiting")
    }
    assert known == {
        "message_location": "absent",
        "witness": "celery@crawl-witness/abc",
        "first_sighting_at": (NOW - 10 * SECOND).isoformat(),
        "queue": "crawl",
        "waiting": 0,
    }


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.QUEUED])
def test_run_without_ledger_entry_is_not_changed(broker, phase):
    stuck = running_job(2 * HOUR) if phase is Phase.RUNNING else lost_job(LOST)
    before = CrawlJob.objects.values().get()
    refuse_ledger_rows()
    row = sweep(phase=phase)
    assert CrawlJob.objects.values().get() == before
    assert LedgerEntry.objects.count() == 0
    assert row.acted == 0
    assert not row.idle
    assert len(row.errors) == 1
    assert str(stuck.pk) in row.error_messages[0]
    assert "no ledger" in row.error_messages[0]
    assert broker.revokes() == []
    assert broker.ids() == []


def test_run_that_cannot_be_written_does_not_stop_the_others():
    bad, *good = [running_job(2 * HOUR) for _ in range(4)]
    refuse_ledger_rows(of=bad.pk)
    row = sweep()
    assert fresh(bad).status == "running"
    assert {fresh(each).status for each in good} == {"failed"}
    assert row.acted == 3
    assert len(row.errors) == 1
    assert f"{bad.pk} could not be written" in row.error_messages[0]


@on_postgresql
def test_run_that_is_slow_to_write_does_not_stop_the_others(impatient):
    jobs = [running_job(2 * HOUR) for _ in range(5)]
    with slow_writes(of=jobs[:1]):
        row = sweep()
    assert [fresh(job).status for job in jobs] == ["running", *["failed"] * 4]
    assert row.acted == 4
    assert row.deferred == 0
    assert len(row.errors) == 1
    assert f"{jobs[0].pk} could not be written" in row.error_messages[0]
    assert "statement timeout" in row.error_messages[0]
    assert LedgerEntry.objects.count() == 4
    assert sweep(at=NOW + SECOND).acted == 1


@on_postgresql
def test_slow_database_ends_the_sweep_after_max_errors(impatient):
    jobs = [running_job(2 * HOUR) for _ in range(3 * MAX_DB_ERRORS)]
    with slow_writes(), within(5):
        row = sweep()
    assert {fresh(job).status for job in jobs} == {"running"}
    # The first refusal is of the batch as a whole.
    alone = MAX_DB_ERRORS - 1
    assert row.acted == 0
    assert len(row.errors) == alone + 1
    assert row.deferred == len(jobs) - alone
    assert row.error_messages[-1] == "too many database errors; the remaining runs are deferred"
    assert LedgerEntry.objects.count() == 0
    assert sweep(at=NOW + SECOND).acted == len(jobs)


@on_postgresql
def test_sweep_with_failing_database_keeps_done_work(impatient, monkeypatch, broker):
    monkeypatch.setattr("reaper.sweeps.sweep.BATCH", 2)
    jobs = [held_job((9 - number) * HOUR) for number in range(6)]
    with slow_writes(of=jobs[2:]):
        row = sweep()
    assert [fresh(job).status for job in jobs] == [*["failed"] * 2, *["running"] * 4]
    assert row.acted == LedgerEntry.objects.count() == 2
    assert row.deferred == 1
    assert len(row.errors) == 4
    assert [revoke.ids for revoke in broker.revokes()] == [[job.task_id for job in jobs[:2]]]
    assert sweep(at=NOW + SECOND).acted == 4


@pytest.mark.django_db(transaction=True)
@on_postgresql
def test_locked_row_is_left_until_it_is_free(broker):
    jobs = [running_job(2 * HOUR) for _ in range(3)]
    other = connection.copy()
    try:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute("UPDATE crawl_jobs SET pages_crawled = 1 WHERE id = %s", [jobs[0].pk])
        with within(5):
            rows = [sweep(at=NOW + number * MINUTE) for number in range(3)]
        other.rollback()
    finally:
        other.close()
    assert [(row.acted, row.conflicts, row.errors) for row in rows] == [(2, 1, []), (0, 1, []), (0, 1, [])]
    assert sweep(at=NOW + 4 * MINUTE).acted == 1
    assert LedgerEntry.objects.count() == 3


@pytest.mark.django_db(transaction=True)
@on_postgresql
def test_old_open_transaction_hides_no_run(broker):
    job = running_job(2 * HOUR)
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SELECT status FROM crawl_jobs")
            assert sweep().acted == 1
            assert sweep(at=NOW + SECOND).scanned == 0
            cursor.execute("SELECT status FROM crawl_jobs")
            assert cursor.fetchall() == [("running",)]
    finally:
        other.close()
    assert fresh(job).status == "failed"


@pytest.mark.parametrize("change", ["completed", "deleted", "source deleted"])
def test_run_changed_during_judging_is_left_alone(change, broker):
    job, stuck = held_job(2 * HOUR), held_job(2 * HOUR)

    class Slow(CrawlJobs):
        def apply(self, changes, now):
            if change == "completed":
                CrawlJob.objects.filter(pk=job.pk).update(status="completed")
            elif change == "deleted":
                CrawlJob.objects.filter(pk=job.pk).delete()
            else:
                Source.objects.filter(pk=job.source_id).delete()
            return super().apply(changes, now)

    row = sweep(Slow())
    assert row.acted == 1
    assert row.conflicts == 1
    assert row.errors == []
    assert not row.idle
    assert LedgerEntry.objects.get().run_id == str(stuck.pk)
    assert broker.revokes() == [killed([stuck.task_id], "celery@w1")]
    if change == "completed":
        assert fresh(job).status == "completed"
        assert fresh(job).error_message == ""


def test_batch_with_conflict_is_rolled_back_and_written_without_it(broker):
    class Losing(CrawlJobs):
        batches = 0

        def apply(self, changes, now):
            self.batches += 1
            return super().apply(changes, now)[self.batches == 1 :]

    jobs = [running_job(ago) for ago in (4 * HOUR, 3 * HOUR, 2 * HOUR)]
    row = sweep(losing := Losing())
    assert row.acted == 2
    assert row.conflicts == 1
    assert row.errors == []
    assert losing.batches == 2
    assert [fresh(job).status for job in jobs] == ["running", "failed", "failed"]
    assert list(LedgerEntry.objects.order_by("id").values_list("run_id", flat=True)) == [
        str(job.pk) for job in jobs[1:]
    ]


@on_postgresql
@pytest.mark.django_db(transaction=True)
def test_overlapping_sweeps_act_on_every_run_once(broker):
    jobs = [lost_job(LOST) for _ in range(30)]
    switches.set_controls(CrawlJobs(), "ada", NOW, released_until=NOW + HOUR)
    barrier, found = threading.Barrier(3), []

    class Together(CrawlJobs):
        def apply(self, changes, now):
            try:
                barrier.wait(5)
            except threading.BrokenBarrierError:
                pass
            return super().apply(changes, now)

    def one():
        try:
            found.append(sweep_phase(Together(), Phase.QUEUED))
        finally:
            connection.close()

    with freeze_time(NOW):
        threads = [threading.Thread(target=one) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert [row.errors for row in found] == [[], [], []]
    assert sum(row.acted for row in found) == 30
    assert sum(row.conflicts for row in found) == 60
    assert LedgerEntry.objects.count() == 30
    assert sorted(broker.ids()) == sorted(fresh(job).task_id for job in jobs)


@pytest.mark.django_db(transaction=True)
def test_sweep_inside_open_transaction_is_refused(broker):
    """Its messages would go out before the commit, and stay out after a rollback."""
    job = lost_job(LOST)
    with transaction.atomic():
        row = sweep_queued()
    assert "RuntimeError" in row.error_messages[0]
    assert row.acted == 0
    assert fresh(job).task_id == job.task_id
    assert LedgerEntry.objects.count() == 0
    assert broker.ids() == []
    assert broker.revokes() == []
