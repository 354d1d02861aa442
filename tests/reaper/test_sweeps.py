"""The shell, against a real database and a real broker."""

import threading
from contextlib import contextmanager

import pytest
from django.core import serializers
from django.db import DatabaseError, connection, transaction
from freezegun import freeze_time
from freezegun.api import real_monotonic

from apps.sources import dispatch
from apps.sources.models import CrawlJob, CrawlJobSourceResult, Source
from apps.sources.reaping import CrawlJobs, SourceResults
from reaper.adapters import Message
from reaper.broker.connection import Broker
from reaper.conf import settings as conf
from reaper.controls import modes as switches
from reaper.core import brake
from reaper.core.decisions import PUBLISH_GRACE
from reaper.core.facts import Phase
from reaper.core.policy import Action
from reaper.core.serialization import facts_from_json
from reaper.core.sweep_errors import ErrorCode
from reaper.db import pagination as reading
from reaper.evidence.collector import EvidenceCollector
from reaper.models import LedgerEntry, MessageSighting, RefusedWrite, Sweep, WorkerHeartbeat
from reaper.signals import reaped, swept
from reaper.sweeps import manual, parents
from reaper.sweeps.judging import judge_phase, judge_run
from reaper.sweeps.sweep import sweep as sweep_phase
from reaper.sweeps.writer import MAX_DB_ERRORS
from tests.factories import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    child,
    executing,
    first_look,
    fresh,
    held_job,
    keep_reporting,
    lost_job,
    orphan,
    parent,
    queued_job,
    report,
    running_job,
    witness,
)
from tests.plugin.adapter import Parcels
from tests.plugin.models import Parcel
from tests.servers import Revoke, killed

# Beyond the grace that a message has; beyond every backoff.
LOST, LATER = 31 * SECOND, 10 * MINUTE
on_postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="needs connections that do not wait")

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


def sweep(kind="crawl_job", phase=Phase.RUNNING, at=NOW, tick=False):
    """One sweep at this time, until which the workers have reported; `kind` may be an adapter of the test's own."""
    keep_reporting(at)
    adapter = conf.adapters()[kind] if isinstance(kind, str) else kind
    with freeze_time(at, tick=tick):
        return sweep_phase(adapter, phase)


def sweep_queued(kind="crawl_job", **more):
    return sweep(kind, Phase.QUEUED, **more)


def finalize_parents(at=NOW):
    with freeze_time(at):
        return parents.finalize_parents(conf.adapters()["source_result"])


def start(row, at):
    """A worker takes a queued run."""
    type(row).objects.filter(pk=row.pk).update(status="running", started_at=at, worker="celery@w1/abc")


def lose(broker, *rows, at, queue="crawl"):
    """All messages of the queue are lost, and a sweep shortly before this time noticed that of these rows."""
    broker.client.delete(queue)
    for row in rows:
        first_look(row, at)


def unsent_job(ago=LOST, **fields):
    """A job that was never sent."""
    return queued_job(ago, task_id="", **fields)


def requeues(row):
    return LedgerEntry.objects.filter(run_id=str(row.pk), action="requeue").count()


@contextmanager
def within(seconds):
    begin = real_monotonic()
    yield
    took = real_monotonic() - begin
    assert took <= seconds, f"took {took:.1f} s"


@contextmanager
def connected(signal, receiver):
    signal.connect(receiver)
    try:
        yield
    finally:
        signal.disconnect(receiver)


# --- each rule ----------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_run_beyond_its_run_timeout_is_failed_with_a_ledger_row(broker):
    stuck, young = held_job(HOUR + SECOND), held_job(HOUR)
    row = sweep()
    stuck, young = fresh(stuck), fresh(young)
    assert (stuck.status, stuck.error_code, stuck.completed_at) == ("failed", "timed_out", NOW)
    assert stuck.error_message == (
        "Failed by the reaper: it was running longer than its run timeout (rule timed_out)."
        " It had been running for 1 h."
    )
    assert young.status == "running"
    reaping = LedgerEntry.objects.get()
    assert (reaping.run_id, reaping.action, reaping.task_id) == (str(stuck.pk), "fail", stuck.task_id)
    assert row.revoked_at is not None
    assert (row.scanned, row.acted, row.errors, row.counts) == (2, 1, [], {"timed_out": 1, "in_progress": 1})
    assert broker.revokes() == [killed([stuck.task_id], "celery@w1")]
    assert broker.ids() == []


def test_a_task_is_killed_only_where_a_worker_reports_it_as_executing(broker):
    reported = [held_job(2 * HOUR, worker=f"celery@w{number}/abc") for number in (1, 2, 2)]
    kept = running_job(2 * HOUR)
    report("celery@w3/abc", held=[kept.task_id])
    unreported = running_job(2 * HOUR)
    row = sweep()
    revokes = sorted(broker.revokes(), key=lambda revoke: revoke.to or [])
    assert [sorted(revoke.ids) for revoke in revokes] == [
        sorted([kept.task_id, unreported.task_id]),
        [reported[0].task_id],
        sorted(job.task_id for job in reported[1:]),
    ]
    assert [revoke[1:] for revoke in revokes] == [
        (False, None, None),
        *((True, "SIGKILL", [node]) for node in ("celery@w1", "celery@w2")),
    ]
    assert LedgerEntry.objects.filter(terminate=True).count() == 3
    assert row.revoked_at is not None


@pytest.mark.django_db(transaction=True)
def test_a_run_whose_worker_is_dead_is_failed_at_once(broker):
    stuck, young, healthy = orphan(13 * SECOND), orphan(4 * SECOND, worker="celery@dead/def"), held_job(MINUTE)
    row = sweep()
    assert (fresh(stuck).status, fresh(stuck).error_code) == ("failed", "orphaned")
    assert (fresh(young).status, fresh(healthy).status) == ("running", "running")
    assert (row.counts, row.errors) == ({"orphaned": 1, "in_progress": 2}, [])
    reaping = LedgerEntry.objects.get()
    assert (reaping.reason, reaping.evidence["claimant_liveness"]) == ("orphaned", "dead")
    assert broker.revokes() == [Revoke([stuck.task_id])]


def test_without_a_witness_nothing_is_orphaned_or_lost(broker):
    orphan()
    lost_job()
    WorkerHeartbeat.objects.filter(hostname="celery@crawl-witness").delete()
    before = everything()
    assert sweep().counts == {"inconclusive": 1}
    assert sweep_queued().counts == {"inconclusive": 1}
    assert (everything()[:3], broker.ids(), broker.revokes()) == (before[:3], [], [])


@pytest.mark.django_db(transaction=True)
def test_a_lost_run_is_requeued_under_a_new_id(broker):
    stuck, waiting = lost_job(LOST), lost_job(30 * SECOND)
    row = sweep_queued()
    after = fresh(stuck)
    assert after.status == "pending"
    assert after.task_id not in ("", stuck.task_id)
    assert after.queued_at == NOW
    assert fresh(waiting).task_id == waiting.task_id
    assert LedgerEntry.objects.get().published_at is not None
    assert row.acted == 1
    ((task_id, task, args, kwargs),) = broker.waiting()
    assert (task_id, task) == (after.task_id, "apps.sources.tasks.crawl_source")
    assert (args, kwargs) == ([str(stuck.source_id)], {"crawl_job_id": str(stuck.pk)})
    assert broker.revokes() == [Revoke([stuck.task_id], False, None)]


@pytest.mark.django_db(transaction=True)
def test_a_second_sweep_right_after_is_a_no_op(broker):
    running_job(2 * HOUR)
    sweep()
    broker.revokes()
    assert sweep().acted == 0
    assert LedgerEntry.objects.count() == 1
    assert Sweep.objects.filter(idle=True).count() == 1
    assert broker.revokes() == []


def test_a_run_that_was_never_sent_is_sent(broker):
    lost, waits = (unsent_job(seconds * SECOND, queued_at=None) for seconds in (31, 30))
    row = sweep_queued()
    assert broker.ids() == [fresh(lost).task_id]
    assert fresh(waits).task_id == ""
    assert row.counts == {"never_sent": 1, "within_grace": 1}
    assert broker.revokes() == []


@pytest.mark.parametrize("stamps", [{"started_at": None}, {"started_at": None, "heartbeat_at": NOW - HOUR - SECOND}])
def test_a_running_run_without_a_start_is_still_found_and_failed(stamps):
    stuck = running_job(HOUR + SECOND, **stamps)
    sweep()
    assert (fresh(stuck).status, fresh(stuck).completed_at) == ("failed", NOW)


@pytest.mark.parametrize("status", ["pending", "running"])
@pytest.mark.parametrize(
    ("ended_as", "after"), [("cancelled", "cancelled"), ("failed", "failed"), ("completed", "completed")]
)
def test_a_run_whose_parent_has_ended_is_skipped_and_revoked(broker, status, ended_as, after):
    job = parent(status=ended_as)
    orphan = child(job, status)
    row = sweep("source_result", Phase.RUNNING if status == "running" else Phase.QUEUED)
    orphan = fresh(orphan)
    assert (orphan.status, orphan.error_code, orphan.completed_at) == ("skipped", "parent_ended", NOW)
    assert broker.revokes() == [Revoke([orphan.task_id], False, None)]
    assert fresh(job).status == after
    assert (row.acted, row.errors) == (1, [])


def test_a_cancelled_parents_totals_are_made_in_the_same_sweep():
    job = parent("completed", status="cancelled")
    CrawlJobSourceResult.objects.update(articles_new=7)
    child(job, "running")
    row = sweep("source_result")
    job = fresh(job)
    assert (job.status, job.finalized_at, job.new_articles) == ("cancelled", NOW, 7)
    assert row.finalized == 1


def test_a_parent_is_finalized_in_the_sweep_that_reaps_its_last_children():
    job = parent("completed")
    for _ in range(2):
        child(job, "running", started_at=NOW - HOUR - SECOND)
    other = parent("running")
    child(other, "running", started_at=NOW - HOUR - SECOND)
    row = sweep("source_result")
    assert (fresh(job).status, fresh(job).error_message) == ("completed", "2 sources failed")
    assert fresh(job).finalized_at is not None
    assert (fresh(other).status, fresh(other).finalized_at) == ("running", None)
    assert (row.acted, row.finalized, row.errors) == (3, 1, [])
    assert LedgerEntry.objects.filter(kind="source_result.parent", action="finalize").get().run_id == str(job.pk)


def test_runs_without_a_parent_finalize_none():
    asked = []

    class Lonely(CrawlJobs):
        def finalize(self, parent):
            asked.append(parent)
            return False

    running_job(2 * HOUR)
    assert sweep(Lonely()).acted == 1
    assert asked == []


def test_a_parent_whose_children_have_all_ended_is_finalized():
    stuck, open_one = parent("completed", "failed"), parent("completed", "running")
    row = finalize_parents()
    assert (fresh(stuck).status, fresh(stuck).finalized_at) == ("completed", NOW)
    assert fresh(open_one).finalized_at is None
    assert (row.phase, row.scanned, row.finalized, row.errors) == ("parents", 1, 1, [])
    reaping = LedgerEntry.objects.get()
    assert (reaping.kind, reaping.run_id, reaping.action, reaping.reason, reaping.actor) == (
        "source_result.parent",
        str(stuck.pk),
        "finalize",
        "children_ended",
        "",
    )
    assert finalize_parents().finalized == 0
    assert LedgerEntry.objects.count() == 1


def test_a_parent_without_children_is_given_time_to_get_some(settings):
    settings.CRAWL_QUEUE_TIMEOUT = 15 * MINUTE
    childless = parent(created_at=NOW - 15 * MINUTE)
    for _ in range(2):
        row = finalize_parents()
        assert (row.finalized, row.idle, row.errors) == (0, True, [])
    finalize_parents(at=NOW + SECOND)
    assert (fresh(childless).status, fresh(childless).error_message) == ("failed", "no sources")


def test_a_parent_that_somebody_else_has_just_finalized_leaves_nothing_but_the_idle_row():
    class Late(SourceResults):
        def finalize(self, parent):
            super().finalize(parent)
            return super().finalize(parent)

    parent("completed")
    with freeze_time(NOW):
        row = parents.finalize_parents(Late())
    assert (row.scanned, row.finalized, row.idle) == (1, 0, True)
    assert Sweep.objects.get() == row
    assert LedgerEntry.objects.count() == 0


def test_one_parent_that_cannot_be_finalized_does_not_stop_the_others():
    bad, good = sorted([parent("completed"), parent("completed")], key=lambda job: job.pk)

    class Fragile(SourceResults):
        def finalize(self, parent):
            if parent == str(bad.pk):
                raise OSError("boom")
            return super().finalize(parent)

    with freeze_time(NOW):
        row = parents.finalize_parents(Fragile())
    assert fresh(good).finalized_at == NOW
    assert row.error_messages == [f"parent {bad.pk} could not be finalized: OSError: boom"]


# --- the ledger ---------------------------------------------------------------------------------------------------


def test_the_ledger_tells_what_was_decided_and_on_what():
    stuck = lost_job(LOST)
    row = sweep_queued()
    reaping = LedgerEntry.objects.get()
    assert (reaping.sweep, reaping.created_at, reaping.kind, reaping.phase) == (row, NOW, "crawl_job", "queued")
    assert (reaping.action, reaping.reason, reaping.actor) == ("requeue", "lost", "")
    assert (reaping.exhausted, reaping.terminate) == (False, False)
    assert (reaping.task_id, reaping.new_task_id) == (stuck.task_id, fresh(stuck).task_id)
    assert (row.revoked_at, reaping.published_at) == (NOW, NOW)
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


def refuse_ledger_rows(of=""):
    """From now on the database itself refuses the ledger rows of one run, or all."""
    named = f"NEW.run_id = '{of}'" if of else "TRUE"
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "CREATE FUNCTION refuse_reaping() RETURNS trigger LANGUAGE plpgsql AS"
                f" $$ BEGIN IF {named} THEN RAISE EXCEPTION 'no ledger'; END IF; RETURN NEW; END $$"
            )
            cursor.execute(
                "CREATE TRIGGER refuse_reaping BEFORE INSERT ON reaper_ledgerentry"
                " FOR EACH ROW EXECUTE FUNCTION refuse_reaping()"
            )
        else:
            cursor.execute(
                f"CREATE TRIGGER refuse_reaping BEFORE INSERT ON reaper_ledgerentry WHEN {named}"
                " BEGIN SELECT RAISE(ABORT, 'no ledger'); END"
            )


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.QUEUED])
def test_without_its_ledger_row_a_run_is_not_changed(broker, phase):
    stuck = running_job(2 * HOUR) if phase is Phase.RUNNING else lost_job(LOST)
    before = CrawlJob.objects.values().get()
    refuse_ledger_rows()
    row = sweep(phase=phase)
    assert CrawlJob.objects.values().get() == before
    assert LedgerEntry.objects.count() == 0
    assert (row.acted, row.idle, len(row.errors)) == (0, False, 1)
    assert str(stuck.pk) in row.error_messages[0]
    assert "no ledger" in row.error_messages[0]
    assert (broker.revokes(), broker.ids()) == ([], [])


def test_one_run_that_cannot_be_written_does_not_stop_the_others():
    bad, *good = [running_job(2 * HOUR) for _ in range(4)]
    refuse_ledger_rows(of=bad.pk)
    row = sweep()
    assert fresh(bad).status == "running"
    assert {fresh(each).status for each in good} == {"failed"}
    assert (row.acted, len(row.errors)) == (3, 1)
    assert f"{bad.pk} could not be written" in row.error_messages[0]


def test_a_parent_that_cannot_be_recorded_is_not_finalized():
    job = parent("completed")
    refuse_ledger_rows()
    row = finalize_parents()
    assert (fresh(job).finalized_at, row.finalized) == (None, 0)
    assert str(job.pk) in row.error_messages[0]


# --- a database in trouble -----------------------------------------------------------------------------------------


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


@on_postgresql
def test_one_run_that_is_slow_to_write_does_not_stop_the_others(impatient):
    jobs = [running_job(2 * HOUR) for _ in range(5)]
    with slow_writes(of=jobs[:1]):
        row = sweep()
    assert [fresh(job).status for job in jobs] == ["running", *["failed"] * 4]
    assert (row.acted, row.deferred, len(row.errors)) == (4, 0, 1)
    assert f"{jobs[0].pk} could not be written" in row.error_messages[0]
    assert "statement timeout" in row.error_messages[0]
    assert LedgerEntry.objects.count() == 4
    assert sweep(at=NOW + SECOND).acted == 1


@on_postgresql
def test_a_database_too_slow_for_anything_holds_a_sweep_only_so_long(impatient):
    jobs = [running_job(2 * HOUR) for _ in range(3 * MAX_DB_ERRORS)]
    with slow_writes(), within(5):
        row = sweep()
    assert {fresh(job).status for job in jobs} == {"running"}
    # The first refusal is of the batch as a whole.
    alone = MAX_DB_ERRORS - 1
    assert (row.acted, len(row.errors), row.deferred) == (0, alone + 1, len(jobs) - alone)
    assert row.error_messages[-1] == "too many database errors; the remaining runs are deferred"
    assert LedgerEntry.objects.count() == 0
    assert sweep(at=NOW + SECOND).acted == len(jobs)


@on_postgresql
def test_what_was_done_before_the_database_became_slow_is_kept(impatient, monkeypatch, broker):
    monkeypatch.setattr("reaper.sweeps.sweep.BATCH", 2)
    jobs = [held_job((9 - number) * HOUR) for number in range(6)]
    with slow_writes(of=jobs[2:]):
        row = sweep()
    assert [fresh(job).status for job in jobs] == [*["failed"] * 2, *["running"] * 4]
    assert row.acted == LedgerEntry.objects.count() == 2
    assert (row.deferred, len(row.errors)) == (1, 4)
    assert [revoke.ids for revoke in broker.revokes()] == [[job.task_id for job in jobs[:2]]]
    assert sweep(at=NOW + SECOND).acted == 4


@pytest.mark.parametrize("limit", ["MAX_ACTIONS", "brake"])
def test_runs_that_cannot_be_written_do_not_hide_those_behind_them(monkeypatch, limits, limit):
    monkeypatch.setattr(reading, "PAGE", 2)
    jobs = [running_job((9 - number) * HOUR) for number in range(6)]
    locked = {str(job.pk) for job in jobs[:3]}

    class Locked(CrawlJobs):
        def apply(self, changes, now):
            return super().apply([change for change in changes if change.run.pk not in locked], now)

    if limit == "brake":
        monkeypatch.setattr(brake, "HELD_LIMIT", 2)
    else:
        limits(MAX_ACTIONS=2)
    row = sweep(Locked())
    assert (row.acted, row.conflicts) == (2, 3)
    assert [fresh(job).status for job in jobs] == [*["running"] * 3, *["failed"] * 2, "running"]
    assert sweep(Locked(), at=NOW + SECOND).acted == 1


def test_what_lies_behind_the_last_run_that_may_be_acted_on_is_not_even_read(monkeypatch, limits):
    monkeypatch.setattr(reading, "PAGE", 2)
    limits(MAX_ACTIONS=3)
    for _ in range(7):
        running_job(2 * HOUR)
    rows = [sweep(at=NOW + number * SECOND) for number in range(3)]
    assert [(row.scanned, row.acted, row.deferred) for row in rows] == [(4, 3, 1), (4, 3, 1), (1, 1, 0)]


def test_no_more_are_read_for_the_room_that_one_leaves_than_it_takes(monkeypatch, limits):
    monkeypatch.setattr(reading, "PAGE", 2)
    limits(MAX_ACTIONS=4)
    first, *_ = (running_job((20 - number) * HOUR) for number in range(10))

    class Locked(CrawlJobs):
        def apply(self, changes, now):
            return super().apply([change for change in changes if change.run.pk != str(first.pk)], now)

    row = sweep(Locked())
    assert (row.scanned, row.acted, row.conflicts, row.deferred) == (6, 4, 1, 1)


@pytest.mark.django_db(transaction=True)
@on_postgresql
def test_a_row_that_is_locked_for_long_is_left_alone_until_it_is_free(broker):
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
def test_an_old_snapshot_that_is_open_hides_nothing(broker):
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


# --- budgets and backoff ------------------------------------------------------------------------------------------


def test_a_run_that_is_lost_again_and_again_is_poison(limits):
    limits(KINDS={"crawl_job": {"ON_TIMEOUT": "requeue"}})
    job, at = running_job(2 * HOUR), NOW
    ids = {job.task_id}
    for count in (1, 2, 3):
        assert sweep(at=at).acted == 1
        assert (fresh(job).status, requeues(job)) == ("pending", count)
        ids.add(fresh(job).task_id)
        start(job, at)
        at += 2 * HOUR
    assert len(ids) == 4
    assert sweep(at=at).acted == 1
    job = fresh(job)
    assert (job.status, job.error_code, job.completed_at) == ("failed", "poison", at)
    assert "rule timed_out" in job.error_message
    assert "Given up after 3 requeues." in job.error_message
    assert LedgerEntry.objects.latest("id").exhausted is True
    assert requeues(job) == 3


def test_a_run_that_never_starts_is_given_up_after_its_own_budget(broker):
    job, at = lost_job(LOST), NOW
    for count in (1, 2, 3, 4, 5):
        assert sweep_queued(at=at).acted == 1
        assert (fresh(job).status, requeues(job)) == ("pending", count)
        at += LATER
        lose(broker, job, at=at)
    assert sweep_queued(at=at).acted == 1
    assert (fresh(job).status, fresh(job).error_code) == ("failed", "poison")
    assert "Given up after 5 requeues." in fresh(job).error_message
    assert sweep_queued(at=at + HOUR).acted == 0


def test_a_run_is_not_acted_on_again_before_its_backoff_is_over(broker, limits):
    limits(LOST_GRACE=1, MAX_REDISPATCHES=9)
    job, at = lost_job(6 * SECOND), NOW
    sweep_queued(at=at)
    for count, wait in ((2, 30 * SECOND), (3, 2 * MINUTE), (4, 8 * MINUTE), (5, 8 * MINUTE)):
        at += wait
        lose(broker, job, at=at)
        row = sweep_queued(at=at)
        assert (row.acted, row.counts) == (0, {"backoff": 1})
        at += SECOND
        assert sweep_queued(at=at).acted == 1
        assert requeues(job) == count


@pytest.mark.django_db(transaction=True)
def test_a_dispatch_by_hand_starts_the_budget_anew(broker, limits):
    limits(MAX_REDISPATCHES=1)
    job = lost_job(LOST)
    sweep_queued()
    at = NOW + 30 * MINUTE
    with freeze_time(at):
        dispatch.dispatch_run(CrawlJob, job.pk, manual=True)
    lose(broker, job, at=at + 30 * SECOND)
    assert sweep_queued(at=at + 30 * SECOND).acted == 0
    assert sweep_queued(at=at + LOST).acted == 1
    assert (fresh(job).status, requeues(job)) == ("pending", 2)
    lose(broker, job, at=at + LATER)
    sweep_queued(at=at + LATER)
    assert (fresh(job).status, fresh(job).error_code) == ("failed", "poison")


def test_a_kind_without_a_time_of_dispatch_is_not_poison_within_minutes(parcels, broker, limits):
    limits(BACKOFF=[])
    parcel = parcels.create(stage="new", job="t1", made=NOW - HOUR)
    lose(broker, parcel, at=NOW, queue="parcels")
    witness("parcels")
    assert sweep_queued("parcel").acted == 1
    sent = fresh(parcel).job
    lose(broker, parcel, at=NOW + 6 * SECOND, queue="parcels")
    for seconds in (6, 20, 30):
        assert sweep_queued("parcel", at=NOW + seconds * SECOND).counts == {"within_grace": 1}
        assert fresh(parcel).job == sent
    assert sweep_queued("parcel", at=NOW + LOST).acted == 1


def test_no_more_runs_are_acted_on_than_allowed_and_the_rest_waits(limits, broker):
    limits(MAX_ACTIONS=2)
    jobs = [lost_job(LOST + number * SECOND) for number in range(5)]
    rows = [sweep_queued() for _ in range(3)]
    assert [(row.acted, row.deferred) for row in rows] == [(2, 3), (2, 1), (1, 0)]
    assert all(not row.idle for row in rows)
    assert sorted(broker.ids()) == sorted(fresh(job).task_id for job in jobs)
    assert LedgerEntry.objects.count() == 5


def test_what_is_published_late_counts_as_an_act_too(limits, broker, monkeypatch, tmp_path):
    jobs = [unsent_job(LOST + number * SECOND) for number in range(3)]
    with monkeypatch.context() as patch:
        patch.setenv("CELERY_BROKER_WRITE_URL", f"redis+socket://{tmp_path}/nobody.sock")
        assert sweep_queued().acted == 3
    limits(MAX_ACTIONS=2)
    rows = [sweep_queued(at=NOW + PUBLISH_GRACE + SECOND) for _ in range(2)]
    assert [(row.acted, row.deferred) for row in rows] == [(2, 1), (1, 0)]
    assert sorted(broker.ids()) == sorted(fresh(job).task_id for job in jobs)


def test_the_oldest_are_acted_on_first(limits):
    limits(MAX_ACTIONS=1)
    jobs = [running_job(ago) for ago in (2 * HOUR, 4 * HOUR, 3 * HOUR)]
    sweep()
    assert [fresh(job).status for job in jobs] == ["running", "failed", "running"]


def test_a_sweep_of_many_batches_and_pages_reaches_all_of_them_once(monkeypatch, broker):
    monkeypatch.setattr(reading, "PAGE", 3)
    monkeypatch.setattr("reaper.sweeps.sweep.BATCH", 2)
    jobs = [lost_job(LOST + number * SECOND) for number in range(8)]
    row = sweep_queued()
    assert (row.scanned, row.acted, row.conflicts, row.counts) == (8, 8, 0, {"lost": 8})
    assert sorted(broker.ids()) == sorted(fresh(job).task_id for job in jobs)
    assert sorted(task_id for revoke in broker.revokes() for task_id in revoke.ids) == sorted(j.task_id for j in jobs)


# --- a run that moves on, and sweeps that overlap -----------------------------------------------------------------


@pytest.mark.parametrize("what", ["completed", "deleted", "source deleted"])
def test_a_run_that_moves_on_while_it_is_judged_is_left_alone(what, broker):
    job, stuck = held_job(2 * HOUR), held_job(2 * HOUR)

    class Slow(CrawlJobs):
        def apply(self, changes, now):
            if what == "completed":
                CrawlJob.objects.filter(pk=job.pk).update(status="completed")
            elif what == "deleted":
                CrawlJob.objects.filter(pk=job.pk).delete()
            else:
                Source.objects.filter(pk=job.source_id).delete()
            return super().apply(changes, now)

    row = sweep(Slow())
    assert (row.acted, row.conflicts, row.errors, row.idle) == (1, 1, [], False)
    assert LedgerEntry.objects.get().run_id == str(stuck.pk)
    assert broker.revokes() == [killed([stuck.task_id], "celery@w1")]
    if what == "completed":
        assert (fresh(job).status, fresh(job).error_message) == ("completed", "")


def test_a_batch_of_which_one_moves_on_is_undone_and_done_without_it(broker):
    class Losing(CrawlJobs):
        batches = 0

        def apply(self, changes, now):
            self.batches += 1
            return super().apply(changes, now)[self.batches == 1 :]

    jobs = [running_job(ago) for ago in (4 * HOUR, 3 * HOUR, 2 * HOUR)]
    row = sweep(losing := Losing())
    assert (row.acted, row.conflicts, row.errors, losing.batches) == (2, 1, [], 2)
    assert [fresh(job).status for job in jobs] == ["running", "failed", "failed"]
    assert list(LedgerEntry.objects.order_by("id").values_list("run_id", flat=True)) == [
        str(job.pk) for job in jobs[1:]
    ]


@on_postgresql
@pytest.mark.django_db(transaction=True)
def test_sweeps_that_overlap_act_on_every_run_once(broker):
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
def test_a_sweep_inside_an_open_transaction_is_refused(broker):
    """Its messages would go out before the commit, and stay out after a rollback."""
    job = lost_job(LOST)
    with transaction.atomic():
        row = sweep_queued()
    assert "RuntimeError" in row.error_messages[0]
    assert (row.acted, fresh(job).task_id, LedgerEntry.objects.count()) == (0, job.task_id, 0)
    assert (broker.ids(), broker.revokes()) == ([], [])


# --- one bad thing never stops the others -------------------------------------------------------------------------


def test_a_receiver_that_raises_stops_nothing(caplog):
    def broken(**_):
        raise OSError("boom")

    jobs = [running_job(2 * HOUR) for _ in range(2)]
    with connected(reaped, broken), connected(swept, broken):
        row = sweep()
    assert (row.acted, row.errors) == (2, [])
    assert {fresh(job).status for job in jobs} == {"failed"}
    assert "boom" in caplog.text


def test_a_hook_that_raises_in_the_middle_is_told_and_what_was_done_stays():
    class Fragile(CrawlJobs):
        def iter_unfinished(self, phase):
            yield from super().iter_unfinished(phase)
            raise OSError("boom")

    job = running_job(2 * HOUR)
    row = sweep(Fragile())
    assert row.error_messages == ["cut short: OSError: boom"]
    assert fresh(job).status == "failed"
    assert Sweep.objects.get() == row


@pytest.mark.parametrize("how", ["raises", "lacks it", "cannot be sent", "cannot be read"])
def test_one_run_without_a_usable_message_does_not_stop_the_others(broker, how):
    bad, *good = [lost_job(LOST + (9 - number) * SECOND) for number in range(4)]

    class Fragile(CrawlJobs):
        def messages(self, of):
            found = super().messages(of)
            if str(bad.pk) not in found:
                return found
            if how == "raises":
                raise OSError("boom")
            del found[str(bad.pk)]
            unusable = {"cannot be sent": Message([object()]), "cannot be read": None}
            return {str(bad.pk): unusable[how], **found} if how in unusable else found

    row = sweep_queued(Fragile())
    assert row.acted == 4
    assert sorted(broker.ids()) == sorted(fresh(each).task_id for each in good)
    assert row.errors
    assert "cut short" not in row.error_messages[0]
    sweep_queued(at=NOW + PUBLISH_GRACE + SECOND)
    assert fresh(bad).task_id in broker.ids()
    assert requeues(bad) == 1


def test_messages_of_runs_that_nobody_asked_for_are_not_sent(broker):
    job, other = lost_job(LOST), queued_job()

    class Generous(CrawlJobs):
        def messages(self, of):
            return {str(other.pk): Message(), 7: Message(), **super().messages(of)}

    row = sweep_queued(Generous())
    assert broker.ids() == [fresh(job).task_id]
    assert row.acted == 1
    assert LedgerEntry.objects.get().published_at == NOW


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param({"job": None}, id="NULL id"),
        pytest.param({"job": ""}, id="empty id"),
        pytest.param({"job": "same"}, id="another's id"),
        pytest.param({"picked": None}, id="no start"),
        pytest.param({"picked": None, "made": None}, id="no clock"),
        pytest.param({"picked": NOW + 99 * HOUR, "made": None}, id="future clock"),
        pytest.param({"picked": NOW + 99 * HOUR, "made": NOW + 99 * HOUR}, id="future clocks"),
        pytest.param({"note": None}, id="NULL message"),
    ],
)
@pytest.mark.parametrize("stage", ["new", "again", "underway"])
def test_a_row_with_odd_facts_raises_nothing_and_stops_nothing(parcels, broker, stage, facts):
    stuck = {"stage": stage, "made": NOW - 9 * HOUR, "picked": NOW - 9 * HOUR}
    odd = parcels.create(**{**stuck, "job": "odd", **facts})
    plain = parcels.create(**stuck, job="same" if facts.get("job") == "same" else "plain")
    lose(broker, odd, plain, at=NOW, queue="parcels")
    witness("parcels")
    phase = Phase.RUNNING if stage == "underway" else Phase.QUEUED
    row = sweep("parcel", phase)
    assert (row.scanned, row.errors, sum(row.counts.values())) == (2, [], 2)
    assert fresh(plain).stage == ("lost" if phase is Phase.RUNNING else "again")
    for revoke in broker.revokes():
        assert set(revoke.ids) <= {"odd", "plain", "same"}


def test_runs_without_any_usable_clock_are_left_and_counted(parcels):
    for stage in ("new", "underway"):
        parcels.create(stage=stage, job=stage)
        parcels.create(stage=stage, job=f"{stage} 2", made=NOW + 9 * HOUR)
    for phase in (Phase.RUNNING, Phase.QUEUED):
        row = sweep("parcel", phase)
        assert (row.scanned, row.acted, row.counts) == (2, 0, {"no_timestamp": 2})


def test_a_run_in_an_unknown_status_is_never_touched(parcels):
    parcels.create(stage="odd", job="t1", made=NOW - 99 * HOUR)
    parcels.create(stage=None, job="t2", made=NOW - 99 * HOUR)
    before = list(parcels.order_by("pk").values())
    assert sweep("parcel", Phase.RUNNING).acted == 0
    row = sweep("parcel", Phase.QUEUED)
    assert (row.scanned, row.acted, row.counts) == (2, 0, {"unknown_status": 2})
    assert list(parcels.order_by("pk").values()) == before
    verdict = judge_run(Parcels(), str(before[0]["id"]), NOW)
    assert str(verdict.decision.reason) == "unknown_status"


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite keeps no such timestamp")
@pytest.mark.parametrize("stamp", ["20000-01-01 00:00+00", "0044-03-15 00:00+00 BC", "infinity"])
def test_a_timestamp_that_python_cannot_hold_spoils_nothing(stamp):
    odd, odd_progress, stuck = (running_job(2 * HOUR) for _ in range(3))
    waits = lost_job(LOST)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE crawl_jobs SET started_at = %s, queued_at = %s WHERE id = %s", [stamp, stamp, odd.pk])
        cursor.execute("UPDATE crawl_jobs SET heartbeat_at = %s WHERE id = %s", [stamp, odd_progress.pk])
        cursor.execute("UPDATE crawl_jobs SET queued_at = %s WHERE id = %s", [stamp, waits.pk])
    row = sweep()
    # What can be read of the others decides: each was made two hours ago.
    assert (row.scanned, row.acted, row.errors, row.counts) == (3, 3, [], {"timed_out": 3})
    assert CrawlJob.objects.filter(pk__in=[odd.pk, odd_progress.pk, stuck.pk], status="failed").count() == 3
    row = sweep_queued()
    assert (row.scanned, row.acted, row.errors) == (1, 1, [])


def test_an_earlier_message_is_kept():
    stuck = running_job(2 * HOUR, error_message="The site was slow.")
    sweep()
    assert fresh(stuck).error_message.startswith("The site was slow.\nFailed by the reaper: ")


# --- task ids that several runs carry -----------------------------------------------------------------------------


def spared(broker, task_id):
    """No broadcast named this task."""
    return task_id not in [each for revoke in broker.revokes() for each in revoke.ids]


@pytest.mark.parametrize("page", [500, 1])
@pytest.mark.parametrize("healthy", ["underway", "new"])
def test_a_task_that_a_healthy_run_carries_too_is_never_revoked(parcels, broker, monkeypatch, page, healthy):
    monkeypatch.setattr(reading, "PAGE", page)
    stuck = parcels.create(stage="underway", job="t1", made=NOW, picked=NOW - 2 * HOUR)
    left = parcels.create(stage=healthy, job="t1", made=NOW, picked=NOW)
    sweep("parcel")
    assert (fresh(stuck).stage, fresh(left).stage) == ("lost", healthy)
    assert spared(broker, "t1")
    sweep("parcel", at=NOW + SECOND)
    assert spared(broker, "t1")


def test_a_task_that_a_deferred_run_carries_too_is_not_revoked_before_it(parcels, broker, limits):
    limits(MAX_ACTIONS=1)
    for hours in (3, 2):
        parcels.create(stage="underway", job="t1", picked=NOW - hours * HOUR)
    sweep("parcel")
    assert spared(broker, "t1")
    sweep("parcel")
    assert not spared(broker, "t1")


def test_a_task_that_two_stuck_runs_carry_is_revoked(parcels, broker):
    for _ in range(2):
        parcels.create(stage="underway", job="t1", picked=NOW - 2 * HOUR)
    assert sweep("parcel").acted == 2
    assert not spared(broker, "t1")


def test_a_task_that_another_run_carries_too_is_not_revoked_by_hand_either(parcels, broker):
    mine, other = (parcels.create(stage="underway", job="t1", picked=NOW) for _ in range(2))
    by_hand("parcel", mine, Action.FAIL)
    assert (fresh(mine).stage, fresh(other).stage) == ("lost", "underway")
    assert spared(broker, "t1")


# --- cut off between commit and broker ----------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_sweep_that_dies_between_commit_and_publish_is_made_good_by_the_next_one(broker):
    class Dying(CrawlJobs):
        def messages(self, of):
            raise SystemExit("killed")

    job = lost_job(LOST)
    with pytest.raises(SystemExit):
        sweep_queued(Dying())
    cut_off, requeued = Sweep.objects.get(), fresh(job)
    assert (cut_off.finished_at, cut_off.idle) == (None, False)
    assert requeued.task_id != job.task_id
    assert (broker.ids(), LedgerEntry.objects.get().published_at) == ([], None)
    assert sweep_queued(at=NOW + PUBLISH_GRACE).acted == 0
    assert broker.ids() == []
    later = NOW + PUBLISH_GRACE + SECOND
    row = sweep_queued(at=later)
    assert broker.ids() == [requeued.task_id]
    assert (row.acted, row.counts, row.errors) == (1, {"unpublished": 1}, [])
    assert LedgerEntry.objects.get().published_at == later
    assert (requeues(job), fresh(job).task_id) == (1, requeued.task_id)
    assert sweep_queued(at=later + SECOND).acted == 0


@pytest.mark.django_db(transaction=True)
def test_a_sweep_that_dies_between_commit_and_revoke_is_made_good_by_the_next_one(broker, monkeypatch):
    job = held_job(2 * HOUR)

    def dies(*_args, **_more):
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Broker, "revoke", dies)
        with pytest.raises(SystemExit):
            sweep()
    cut_off = LedgerEntry.objects.get().sweep
    assert (fresh(job).status, cut_off.revoked_at) == ("failed", None)
    sweep(at=NOW + SECOND)
    assert broker.revokes() == [killed([job.task_id], "celery@w1")]
    cut_off.refresh_from_db()
    assert cut_off.revoked_at == NOW + SECOND
    sweep(at=NOW + 2 * SECOND)
    assert broker.revokes() == []


@pytest.mark.django_db(transaction=True)
def test_a_sweep_that_fails_between_commit_and_revoke_is_made_good_by_the_next_one(broker, monkeypatch):
    job = held_job(2 * HOUR)

    def fails(*_):
        raise DatabaseError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(CrawlJobs, "task_ids_in_use", fails)
        row = sweep()
    assert (fresh(job).status, row.revoked_at, broker.revokes()) == ("failed", None, [])
    assert "gone" in row.error_messages[0]
    sweep(at=NOW + SECOND)
    assert broker.revokes() == [killed([job.task_id], "celery@w1")]


def test_a_revoke_that_is_an_hour_late_is_not_sent_any_more(broker, monkeypatch, tmp_path):
    job = held_job(2 * HOUR)
    with monkeypatch.context() as patch:
        patch.setenv("CELERY_BROKER_WRITE_URL", f"redis+socket://{tmp_path}/nobody.sock")
        sweep()
    executing(name=job.worker)
    sweep(at=NOW + HOUR)
    assert broker.revokes() == []
    sweep(at=NOW + HOUR - SECOND)
    assert broker.revokes() == [killed([job.task_id], "celery@w1")]


def test_a_run_that_was_requeued_and_sent_by_hand_meanwhile_is_not_sent_again(broker):
    class Dying(CrawlJobs):
        def messages(self, of):
            raise SystemExit("killed")

    job = lost_job(LOST)
    with pytest.raises(SystemExit):
        sweep_queued(Dying())
    with freeze_time(NOW):
        dispatch.assign_task_id(CrawlJob, job.pk, manual=True)
    assert sweep_queued().acted == 0
    assert broker.ids() == []


# --- a broker that is down ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.QUEUED])
def test_a_refusing_broker_loses_nothing_and_spends_nothing(broker, monkeypatch, tmp_path, phase):
    job = held_job(2 * HOUR) if phase is Phase.RUNNING else unsent_job()
    with monkeypatch.context() as patch, within(10):
        patch.setenv("CELERY_BROKER_WRITE_URL", f"redis+socket://{tmp_path}/nobody.sock")
        row = sweep(phase=phase)
        executing(name="celery@w1/abc")
        again = sweep(phase=phase, at=NOW + HOUR / 2)
    assert row.acted == 1
    assert {error.code for error in row.recorded_errors} == {ErrorCode.BROKER_UNAVAILABLE}
    assert again.acted == 0
    assert (broker.ids(), broker.revokes()) == ([], [])
    row = sweep(phase=phase, at=NOW + HOUR / 2 + SECOND)
    assert row.errors == []
    assert broker.revokes() == ([killed([job.task_id], "celery@w1")] if phase is Phase.RUNNING else [])
    assert broker.ids() == ([fresh(job).task_id] if phase is Phase.QUEUED else [])
    assert requeues(job) == (phase is Phase.QUEUED)
    assert LedgerEntry.objects.count() == 1


def test_while_the_broker_is_down_no_message_is_taken_for_lost(broker, refusing_broker, monkeypatch, redis_server):
    jobs = [lost_job(ago) for ago in (LOST, HOUR, 24 * HOUR)]
    unsent = unsent_job()
    row = sweep_queued()
    assert (row.acted, row.deferred, row.counts) == (0, 1, {"inconclusive": 3, "never_sent": 1})
    assert not LedgerEntry.objects.exists()
    assert [fresh(job).task_id for job in (*jobs, unsent)] == [*(job.task_id for job in jobs), ""]
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", redis_server.url)
    row = sweep_queued(at=NOW + SECOND)
    assert (row.acted, row.counts, row.errors) == (4, {"lost": 3, "never_sent": 1}, [])
    assert {requeues(job) for job in (*jobs, unsent)} == {1}


def test_a_refusing_broker_is_no_reason_to_requeue_more_runs(monkeypatch, refusing_broker):
    monkeypatch.setattr("reaper.sweeps.sweep.BATCH", 2)
    jobs = [unsent_job(LOST + (9 - number) * SECOND) for number in range(5)]
    row = sweep_queued()
    assert (row.acted, row.deferred) == (2, 3)
    assert [requeues(job) for job in jobs] == [1, 1, 0, 0, 0]
    row = sweep_queued(at=NOW + PUBLISH_GRACE + SECOND)
    assert (row.acted, row.deferred) == (0, 5)
    assert [requeues(job) for job in jobs] == [1, 1, 0, 0, 0]


def test_a_refusing_broker_does_not_keep_runs_from_being_failed(monkeypatch, refusing_broker):
    monkeypatch.setattr("reaper.sweeps.sweep.BATCH", 2)
    jobs = [running_job(2 * HOUR) for _ in range(5)]
    row = sweep()
    assert (row.acted, row.deferred) == (5, 0)
    assert {fresh(job).status for job in jobs} == {"failed"}


@pytest.mark.live
@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.QUEUED])
def test_a_hanging_broker_does_not_hold_a_sweep(hanging_broker, phase):
    jobs = [held_job(2 * HOUR) if phase is Phase.RUNNING else unsent_job() for _ in range(3)]
    with within(10):
        row = sweep(phase=phase, tick=True)
    assert row.acted == 3
    assert "publishing to the broker failed" in row.error_messages[0]
    hanging_broker.go_on()
    row = sweep(phase=phase, at=NOW + MINUTE, tick=True)
    assert row.errors == []
    assert not Sweep.objects.filter(revoked_at=None, idle=False).exists()
    if phase is Phase.QUEUED:
        assert sorted(hanging_broker.ids()) == sorted(fresh(job).task_id for job in jobs)
        assert [requeues(job) for job in jobs] == [1, 1, 1]


@pytest.mark.live
@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.QUEUED])
def test_a_broker_that_goes_in_mid_sweep_does_not_hold_it(hanging_broker, monkeypatch, phase, end):
    monkeypatch.setattr("reaper.sweeps.sweep.BATCH", 1)
    jobs = [held_job(2 * HOUR) if phase is Phase.RUNNING else lost_job(LOST) for _ in range(3)]
    hanging_broker.go_on()

    def goes(**_):
        hanging_broker.stop() if end == "stop" else hanging_broker.process.kill()

    with connected(reaped, goes), within(10):
        row = sweep(phase=phase, tick=True)
    assert "publishing to the broker failed" in row.error_messages[0]
    assert row.acted + row.deferred == 3
    assert row.revoked_at is None
    assert LedgerEntry.objects.count() == row.acted
    assert all(requeues(job) <= 1 for job in jobs)


# --- what a sweep leaves behind -----------------------------------------------------------------------------------


def test_sweeps_that_do_nothing_leave_one_row_whose_times_move_on():
    running_job()
    first = sweep()
    second = sweep(at=NOW + SECOND)
    assert Sweep.objects.get() == first == second
    assert (second.idle, second.started_at, second.finished_at) == (True, NOW + SECOND, NOW + SECOND)
    assert (second.scanned, second.counts) == (1, {"within_grace": 1})
    sweep_queued()
    sweep("source_result")
    finalize_parents()
    assert Sweep.objects.filter(idle=True).count() == 4


def test_every_sweep_that_did_something_is_kept():
    for number in range(2):
        running_job(2 * HOUR)
        sweep(at=NOW + number * SECOND)
        sweep(at=NOW + number * SECOND)
    assert Sweep.objects.filter(idle=False).count() == 2
    assert Sweep.objects.filter(idle=True).count() == 1


def test_a_sweep_is_said_in_one_line_and_only_when_something_happened(caplog):
    caplog.set_level("INFO", "reaper.sweeps.record")
    running_job()
    sweep()
    assert caplog.messages == []
    running_job(2 * HOUR)
    sweep()
    assert caplog.messages == ["swept crawl_job running: 2 scanned, 1 acted on (timed_out 1, within_grace 1)"]


def test_signals_tell_what_was_done():
    heard = []

    def on_reaped(sender, run, decision, **_):
        heard.append((sender, run.pk, decision.action))

    def on_swept(sender, sweep, **_):
        heard.append((sender, sweep.pk, sweep.finished_at))

    stuck = running_job(2 * HOUR)
    running_job()
    with connected(reaped, on_reaped), connected(swept, on_swept):
        row = sweep()
        idle = sweep()
    assert heard == [(CrawlJobs, str(stuck.pk), Action.FAIL), (Sweep, row.pk, NOW), (Sweep, idle.pk, NOW)]


def everything():
    models = (
        Source,
        CrawlJob,
        CrawlJobSourceResult,
        Sweep,
        LedgerEntry,
        RefusedWrite,
        MessageSighting,
        WorkerHeartbeat,
    )
    return [serializers.serialize("json", model.objects.order_by("pk")) for model in models]


def plan(kind, phase):
    """What a sweep would do now, in pages."""
    adapter = conf.adapters()[kind]
    with freeze_time(NOW), Broker() as link:
        return list(judge_phase(adapter, phase, EvidenceCollector(adapter, link, conf.policy(adapter), NOW)))


def test_planning_writes_nothing_and_sends_nothing(broker):
    running_job(2 * HOUR)
    lost_job(LOST)
    unsent_job(MINUTE)
    queued_job(MINUTE)
    orphan()
    child(parent("completed", status="cancelled"), "running")
    sweep("source_result")
    broker.revokes()
    child(parent("completed", status="cancelled"), "running")
    before, reasons = everything(), set()
    for kind in conf.adapters():
        for phase in (Phase.RUNNING, Phase.QUEUED):
            for page in plan(kind, phase):
                reasons |= {str(verdict.decision.reason) for verdict in page}
    assert reasons == {"timed_out", "orphaned", "lost", "never_sent", "parent_ended", "inconclusive"}
    assert everything() == before
    assert (broker.ids(), broker.revokes()) == ([], [])


def test_a_plan_is_what_the_sweep_then_does():
    stuck, young = running_job(2 * HOUR), running_job()
    (page,) = plan("crawl_job", Phase.RUNNING)
    assert {(each.run.pk, each.decision.action) for each in page} == {
        (str(stuck.pk), Action.FAIL),
        (str(young.pk), Action.LEAVE),
    }
    with freeze_time(NOW):
        assert judge_run(conf.adapters()["crawl_job"], str(stuck.pk), NOW) in page
    assert judge_run(conf.adapters()["crawl_job"], "7", NOW) is None


# --- by hand ------------------------------------------------------------------------------------------------------


def by_hand(kind, row, action, actor="ada"):
    adapter = conf.adapters()[kind]
    run = adapter.get(str(row.pk))
    with freeze_time(NOW):
        return manual.act_on_run(adapter, run, action, actor)


def test_a_run_is_failed_by_hand_through_the_same_ledger(broker):
    job = held_job(MINUTE)
    done, row = by_hand("crawl_job", job, Action.FAIL)
    assert done is True
    assert (fresh(job).status, fresh(job).error_code) == ("failed", "manual")
    assert fresh(job).error_message == "Failed by ada (rule manual). It had been running for 1 min."
    reaping = LedgerEntry.objects.get()
    assert (reaping.actor, reaping.reason, reaping.sweep) == ("ada", "manual", row)
    assert broker.revokes() == [killed([job.task_id], "celery@w1")]


def test_a_run_is_requeued_by_hand_beyond_every_budget_which_starts_anew(broker, limits):
    limits(MAX_REDISPATCHES=1)
    job = lost_job(LOST)
    sweep_queued()
    done, _ = by_hand("crawl_job", job, Action.REQUEUE)
    assert done is True
    assert broker.ids()[-1] == fresh(job).task_id
    assert broker.revokes()[-1].terminate is False
    lose(broker, job, at=NOW + LATER)
    assert sweep_queued(at=NOW + LATER).acted == 1
    assert fresh(job).status == "pending"


def test_what_has_moved_on_is_not_acted_on_by_hand(broker):
    job = running_job(MINUTE)
    run = conf.adapters()["crawl_job"].get(str(job.pk))
    CrawlJob.objects.filter(pk=job.pk).update(status="completed")
    for _ in range(2):
        done, row = manual.act_on_run(conf.adapters()["crawl_job"], run, Action.FAIL, "ada")
        assert (done, row.conflicts, row.idle) == (False, 1, False)
    assert fresh(job).status == "completed"
    assert (LedgerEntry.objects.count(), broker.revokes()) == (0, [])


def test_a_run_requeued_by_hand_while_the_broker_is_down_is_told_and_sent_later(broker, monkeypatch, tmp_path):
    job = queued_job(MINUTE)
    with monkeypatch.context() as patch:
        patch.setenv("CELERY_BROKER_WRITE_URL", f"redis+socket://{tmp_path}/nobody.sock")
        done, row = by_hand("crawl_job", job, Action.REQUEUE)
    assert done is True
    assert "the broker did not answer" in row.error_messages[0]
    sweep_queued(at=NOW + PUBLISH_GRACE + SECOND)
    assert broker.ids() == [fresh(job).task_id]


def test_a_parent_is_finalized_by_hand_once():
    job = parent("failed")
    with freeze_time(NOW):
        rows = [manual.finalize(conf.adapters()["source_result"], str(job.pk), "ada") for _ in range(2)]
    assert [(done, row.finalized, row.idle) for done, row in rows] == [(True, 1, False), (False, 0, False)]
    assert (fresh(job).status, fresh(job).error_message) == ("failed", "All 1 sources failed")
    reaping = LedgerEntry.objects.get()
    assert (reaping.actor, reaping.reason, reaping.action) == ("ada", "manual", "finalize")


def test_what_is_done_by_hand_is_no_sweep_of_a_phase():
    """Otherwise a person's act would hide that the sweeps have stopped."""
    by_hand("crawl_job", running_job(), Action.FAIL)
    manual.finalize(conf.adapters()["source_result"], "7", "ada")
    assert set(Sweep.objects.values_list("phase", flat=True)) == {"manual"}


def test_a_child_failed_by_hand_ends_its_parent_too():
    job = parent("completed", "running")
    done, row = by_hand("source_result", job.source_results.get(status="running"), Action.FAIL)
    assert (done, row.finalized) == (True, 1)
    assert fresh(job).finalized_at == NOW


@pytest.mark.django_db(transaction=True)
@on_postgresql
def test_a_parent_that_somebody_has_locked_does_not_hold_the_sweep(broker):
    job = parent()
    stuck = child(job, "running", started_at=NOW - 2 * HOUR)
    other = connection.copy()
    try:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute("SELECT 1 FROM crawl_jobs WHERE id = %s FOR UPDATE", [job.pk])
        with within(5):
            row = sweep("source_result")
        other.rollback()
    finally:
        other.close()
    assert fresh(stuck).status == "failed"
    assert "could not be finalized" in row.error_messages[0]
    assert finalize_parents().finalized == 1


@pytest.mark.django_db(transaction=True)
def test_the_rows_are_guarded_by_the_database_not_by_the_plan(broker):
    """Two plans made from the same reading: only the first is carried out."""
    job = running_job(2 * HOUR)
    run = conf.adapters()["crawl_job"].get(str(job.pk))
    outcomes = [manual.act_on_run(conf.adapters()["crawl_job"], run, action, "ada")[0] for action in (Action.FAIL,) * 2]
    assert outcomes == [True, False]
    assert LedgerEntry.objects.count() == 1
    with pytest.raises(DatabaseError), connection.cursor() as cursor:
        cursor.execute("SELECT no_such_column FROM crawl_jobs")


def test_a_parcel_is_carried_as_well(parcels, broker):
    lost = parcels.create(stage="new", job="t1", made=NOW - LOST)
    lose(broker, lost, at=NOW, queue="parcels")
    witness("parcels")
    stuck = parcels.create(stage="underway", job="t2", made=NOW, picked=NOW - HOUR - SECOND)
    sweep("parcel")
    sweep_queued("parcel")
    assert broker.waiting("parcels") == [(fresh(lost).job, "tests.plugin.deliver", [lost.pk], {})]
    assert (fresh(stuck).stage, fresh(stuck).note) == (
        "lost",
        "Failed by the reaper: it was running longer than its run timeout"[:60],
    )
    assert {each.kind for each in LedgerEntry.objects.all()} == {"parcel"}
    assert Parcel.objects.count() == 2
