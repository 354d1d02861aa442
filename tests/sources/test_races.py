"""Two concurrent writers with their own connections: the second finds the row taken, and nothing happens twice."""

import threading
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone
from freezegun import freeze_time

from apps.sources import claims, dispatch, parents
from apps.sources.models import CrawlJob, CrawlJobSourceResult
from reaper.conf import settings as conf
from reaper.core.facts import Phase
from reaper.models import LedgerEntry, RefusedWrite
from reaper.sweeps.parents import finalize_parents
from reaper.sweeps.sweep import sweep as sweep_phase
from tests.factories import (
    COMMITTED,
    child,
    fresh,
    keep_reporting,
    lost_job,
    parent,
    queued_job,
    running_job,
    sent_child,
)
from tests.processes import Race, wait_until

pytestmark = [
    COMMITTED,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer at a time: no such races"),
]

TOTALS = {"pages": 5, "found": 4, "new": 3, "duplicates": 2, "errors": 1}
LONG = conf.Policy().run_timeout * 2
ENDS = {
    "completed": lambda claim: claim.complete(TOTALS),
    "failed": lambda claim: claim.fail("It did not work.", "error"),
}


@pytest.fixture
def race():
    """Threads; all have ended before the database is cleaned up."""
    race = Race()
    yield race
    for thread in race.threads:
        thread.join(20)


def lost():
    """A run whose message is lost, by the real clock; its worker is alive and has not got it."""
    return lost_job(LONG, now=timezone.now())


def claim_of(row):
    return claims.Claim(model=type(row), pk=row.pk, task_id=row.task_id, worker="celery@w1/abc")


def refused(what):
    """A function that returns True when what it does is refused."""

    def attempt():
        try:
            what()
        except claims.ClaimLost:
            return True
        return False

    return attempt


def blocked(number):
    """Whether this many connections to this database wait for a lock."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_stat_clear_snapshot(), (SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock')"
        )
        return cursor.fetchone()[1] >= number


@contextmanager
def locked(*rows):
    """Hold the rows' locks; `yield` a function that waits until so many others wait for them."""
    with transaction.atomic():
        for row in rows:
            type(row).objects.select_for_update().get(pk=row.pk)
        yield lambda number: wait_until(lambda: blocked(number), what=f"{number} wait for the lock")


def adapter_that(first=None, before=None, after=None, committed=None, kind="crawl_job"):
    """The kind's adapter; something happens before it looks, before or after its write in the same transaction, or
    between the commit and the publish."""
    base = type(conf.adapters()[kind])

    class Adapter(base):
        def iter_unfinished(self, phase):
            if first and phase is not Phase.UNKNOWN:
                first()
            return super().iter_unfinished(phase)

        def apply(self, changes, now):
            if before:
                before()
            won = super().apply(changes, now)
            if after:
                after()
            return won

        def messages(self, of):
            if committed:
                committed()
            return super().messages(of)

    return Adapter()


def sweep(adapter=None, phase=Phase.RUNNING):
    return sweep_phase(adapter or conf.adapters()["crawl_job"], phase)


# --- the reaper against a worker ----------------------------------------------------------------------------------


def test_old_run_claimed_as_sweep_begins_is_left(broker):
    waiting = lost()
    row = sweep(adapter_that(first=lambda: claims.claim(CrawlJob, waiting.pk, waiting.task_id, "celery@w1/abc")))
    assert fresh(waiting).status == "running"
    assert row.scanned == 1
    assert row.acted == 0


def test_old_run_dispatched_manually_as_sweep_begins_is_left(broker):
    waiting = lost()
    row = sweep(adapter_that(first=lambda: dispatch.dispatch_run(CrawlJob, waiting.pk, manual=True)), Phase.QUEUED)
    assert broker.ids() == [fresh(waiting).task_id]
    assert row.scanned == 1
    assert row.acted == 0


@pytest.mark.parametrize("end", ENDS)
def test_run_that_ends_between_read_and_write_keeps_its_end(broker, race, end):
    stuck = running_job(LONG)

    def ends_now():
        race.run(lambda: ENDS[end](claim_of(stuck)))
        race.join()

    row = sweep(adapter_that(before=ends_now))
    after = fresh(stuck)
    assert after.status == end
    assert after.pages_crawled == (TOTALS["pages"] if end == "completed" else 0)
    assert after.error_code == ("" if end == "completed" else "error")
    assert row.acted == 0
    assert row.conflicts == 1
    assert not LedgerEntry.objects.exists()


def test_run_with_progress_between_read_and_write_is_left(broker, race):
    stuck = running_job(LONG)

    def progresses():
        race.run(lambda: claim_of(stuck).progress(TOTALS))
        race.join()

    row = sweep(adapter_that(before=progresses))
    assert fresh(stuck).status == "running"
    assert row.acted == 0
    assert row.conflicts == 1


def test_run_claimed_between_read_and_write_is_left(broker, race):
    waiting = lost()

    def is_claimed():
        race.run(lambda: claims.claim(CrawlJob, waiting.pk, waiting.task_id, "celery@w1/abc"))
        race.join()

    row = sweep(adapter_that(before=is_claimed), Phase.QUEUED)
    after = fresh(waiting)
    assert after.status == "running"
    assert after.task_id == waiting.task_id
    assert row.acted == 0
    assert row.conflicts == 1
    assert broker.ids() == []


def test_run_dispatched_between_read_and_write_is_left(broker, race):
    waiting = lost()

    def is_dispatched():
        if not race.threads:
            race.run(lambda: dispatch.dispatch_run(CrawlJob, waiting.pk))
        race.join()

    row = sweep(adapter_that(before=is_dispatched), Phase.QUEUED)
    assert row.conflicts == 1
    assert broker.ids() == race.answers == [fresh(waiting).task_id]
    assert not LedgerEntry.objects.exists()


@pytest.mark.parametrize("end", ENDS)
def test_worker_write_waiting_for_reaper_is_refused(broker, race, end):
    stuck = running_job(LONG)

    def ends_too_late():
        race.run(refused(lambda: ENDS[end](claim_of(stuck))))
        wait_until(lambda: blocked(1), what="the worker waits for the reaper")

    sweep(adapter_that(after=ends_too_late))
    assert race.join() == [True]
    after = fresh(stuck)
    assert after.status == "failed"
    assert after.error_code == "timed_out"
    assert after.pages_crawled == 0


def test_claim_waiting_for_requeue_is_refused(broker, race):
    waiting = lost()

    def claims_too_late():
        race.run(refused(lambda: claims.claim(CrawlJob, waiting.pk, waiting.task_id, "celery@w1/abc")))
        wait_until(lambda: blocked(1), what="the worker waits for the reaper")

    sweep(adapter_that(after=claims_too_late), Phase.QUEUED)
    assert race.join() == [True]
    after = fresh(waiting)
    assert after.status == "pending"
    assert after.worker == ""
    assert broker.ids() == [after.task_id]


def test_manual_dispatch_waiting_for_fail_raises_not_pending(broker, race, settings):
    settings.REAPER = {**settings.REAPER, "MAX_REDISPATCHES": 0}
    waiting = lost()

    def dispatches_too_late():
        def attempt():
            try:
                return dispatch.dispatch_run(CrawlJob, waiting.pk, manual=True)
            except dispatch.NotPending:
                return "not pending"

        race.run(attempt)
        wait_until(lambda: blocked(1), what="the dispatch waits for the reaper")

    sweep(adapter_that(after=dispatches_too_late), Phase.QUEUED)
    assert race.join() == ["not pending"]
    after = fresh(waiting)
    assert after.status == "failed"
    assert after.error_code == "poison"
    assert after.task_id == waiting.task_id
    assert broker.ids() == []
    assert not LedgerEntry.objects.filter(action=LedgerEntry.DISPATCH).exists()


@pytest.mark.parametrize("end", ENDS)
def test_late_end_of_failed_run_is_refused_and_recorded(broker, end):
    stuck = running_job(LONG)
    claim = claim_of(stuck)
    sweep()
    with pytest.raises(claims.ClaimLost):
        ENDS[end](claim)
    assert fresh(stuck).error_code == "timed_out"
    write = {"completed": "complete", "failed": "fail"}[end]
    assert list(RefusedWrite.objects.values_list("write", "task_id")) == [(write, stuck.task_id)]


def test_old_attempt_cannot_write_to_its_successor(broker, settings):
    settings.REAPER = {**settings.REAPER, "ON_TIMEOUT": "requeue"}
    stuck = running_job(LONG)
    zombie = claim_of(stuck)
    sweep()
    (new_id,) = broker.ids()
    assert refused(lambda: claims.claim(CrawlJob, stuck.pk, stuck.task_id, "zombie"))()
    second = claims.claim(CrawlJob, stuck.pk, new_id, "celery@w2/def")
    for late in (lambda: zombie.progress(TOTALS), *(lambda end=end: end(zombie) for end in ENDS.values())):
        assert refused(late)()
    assert refused(lambda: zombie.release(1))()
    assert fresh(stuck).status == "running"
    assert fresh(stuck).task_id == new_id
    second.complete(TOTALS)
    assert fresh(stuck).status == "completed"
    assert broker.ids() == [new_id]


def test_locked_row_is_skipped_and_others_are_written(broker, race):
    held, *others = (running_job(LONG) for _ in range(3))
    with locked(held):
        race.run(sweep)
        (row,) = race.join(10)
        assert [fresh(each).status for each in others] == ["failed", "failed"]
    assert fresh(held).status == "running"
    assert row.acted == 2
    assert row.conflicts == 1
    assert row.errors == []
    assert sweep().acted == 1


def test_locked_parent_does_not_block_the_sweep(broker, race):
    held = parent("completed")
    with locked(held):
        race.run(lambda: finalize_parents(conf.adapters()["source_result"]))
        (row,) = race.join(10)
        assert row.finalized == 0
        assert len(row.errors) == 1
    assert finalize_parents(conf.adapters()["source_result"]).finalized == 1


# --- the reaper against itself ------------------------------------------------------------------------------------


def both_at_once(race, adapter_kind, phase):
    """Two sweeps that have both decided before either of them writes."""
    barrier = threading.Barrier(2)
    for _ in range(2):
        adapter = adapter_that(before=lambda: barrier.wait(15), kind=adapter_kind)
        race.run(lambda adapter=adapter: sweep(adapter, phase))
    return race.join()


def test_two_concurrent_sweeps_fail_a_run_once(broker, race):
    stuck = running_job(LONG)
    rows = both_at_once(race, "crawl_job", Phase.RUNNING)
    assert fresh(stuck).error_message.count("Failed by the reaper") == 1
    assert LedgerEntry.objects.count() == 1
    assert sorted((row.acted, row.conflicts) for row in rows) == [(0, 1), (1, 0)]


def test_two_concurrent_sweeps_requeue_a_run_once(broker, race):
    waiting = [lost() for _ in range(5)]
    rows = both_at_once(race, "crawl_job", Phase.QUEUED)
    ids = sorted(fresh(each).task_id for each in waiting)
    assert sorted(LedgerEntry.objects.values_list("new_task_id", flat=True)) == ids
    assert sorted(broker.ids()) == ids
    assert sum(row.conflicts for row in rows) == 5
    assert [row.errors for row in rows] == [[], []]


def test_sweep_between_commit_and_publish_of_another_does_not_publish(broker, race):
    waiting = lost()

    def second_sweep():
        race.run(lambda: sweep(phase=Phase.QUEUED))
        race.join()

    sweep(adapter_that(committed=second_sweep), Phase.QUEUED)
    assert broker.ids() == [fresh(waiting).task_id]
    assert LedgerEntry.objects.filter(action="requeue").count() == 1


def test_unpublished_requeue_of_dead_sweep_is_published_later(broker):
    waiting = lost()

    def dies():
        raise SystemExit

    with pytest.raises(SystemExit):
        sweep(adapter_that(committed=dies), Phase.QUEUED)
    assert broker.ids() == []
    later = timezone.now() + timedelta(minutes=1)
    keep_reporting(later)
    with freeze_time(later):
        sweep(phase=Phase.QUEUED)
    assert broker.ids() == [fresh(waiting).task_id]
    assert LedgerEntry.objects.count() == 1


def test_two_concurrent_sweeps_of_last_children_finalize_parent_once(broker, race):
    job = parent("completed")
    for _ in range(2):
        child(job, "running", started_at=running_job(LONG).started_at)
    both_at_once(race, "source_result", Phase.RUNNING)
    assert fresh(job).status == "completed"
    assert fresh(job).error_message == "2 sources failed"
    assert LedgerEntry.objects.filter(action=LedgerEntry.FINALIZE).count() == 1


# --- parents ------------------------------------------------------------------------------------------------------


def test_three_concurrent_finalizers_write_one_outcome(race):
    job = parent("completed", "failed")
    with locked(job) as until_waiting:
        for _ in range(3):
            race.run(lambda: parents.finalize(job.pk))
        until_waiting(3)
    assert sorted(race.join()) == [False, False, True]
    assert fresh(job).status == "completed"


def test_three_finalizers_started_together_write_one_outcome(race):
    job = parent(*["completed"] * 20)
    barrier = threading.Barrier(3)

    def finalize():
        connection.ensure_connection()
        barrier.wait(15)
        return parents.finalize(job.pk)

    for _ in range(3):
        race.run(finalize)
    assert sorted(race.join()) == [False, False, True]


@pytest.mark.parametrize("ends", [("completed", "completed"), ("failed", "failed"), ("completed", "failed")], ids=str)
def test_last_two_children_ending_together_finalize_parent_once(race, monkeypatch, ends):
    job = parent("running", "running")
    barrier, finalize, answers = threading.Barrier(2), parents.finalize, []

    def finalize_together(pk):
        # Both children have ended, and neither has finalized yet.
        barrier.wait(15)
        answers.append(finalize(pk))

    monkeypatch.setattr(parents, "finalize", finalize_together)
    for each, end in zip(job.source_results.all(), ends, strict=True):
        race.run(lambda each=each, end=end: ENDS[end](claim_of(each)))
    race.join()
    assert sorted(answers) == [False, True]
    after = fresh(job)
    assert after.finalized_at is not None
    assert after.status == ("failed" if set(ends) == {"failed"} else "completed")


def test_child_ending_with_locked_parent_holds_no_lock(race):
    job = parent("running")
    (last,) = job.source_results.all()
    with locked(job) as until_waiting:
        race.run(lambda: claim_of(last).complete(TOTALS))
        until_waiting(1)
        assert fresh(last).status == "completed"
        with transaction.atomic():
            CrawlJobSourceResult.objects.select_for_update(nowait=True).get(pk=last.pk)
    race.join()
    assert fresh(job).status == "completed"


def test_cancel_just_before_finalizer_writes_wins(broker, race):
    job = parent("completed")
    with locked(job) as until_waiting:
        race.run(lambda: parents.finalize(job.pk))
        until_waiting(1)
        parents.cancel(job.pk)
    race.join()
    after = fresh(job)
    assert after.status == "cancelled"
    assert after.completed_at is not None
    assert after.finalized_at is not None


def test_cancel_just_after_finalizer_wrote_returns_false(broker, race):
    job = parent("completed")
    with locked(job) as until_waiting:
        race.run(lambda: parents.cancel(job.pk))
        until_waiting(1)
        assert parents.finalize(job.pk) is True
    assert race.join() == [False]
    assert fresh(job).status == "completed"


# --- workers against each other and against a person --------------------------------------------------------------


@pytest.mark.parametrize("make", [queued_job, sent_child], ids=["crawl_job", "source_result"])
def test_two_copies_of_message_claim_run_once(race, make):
    row = make()
    with locked(row) as until_waiting:
        for name in ("w1", "w2"):
            race.run(refused(lambda name=name: claims.claim(type(row), row.pk, row.task_id, name)))
        until_waiting(2)
    assert sorted(race.join()) == [False, True]
    assert fresh(row).status == "running"


def test_two_concurrent_dispatches_leave_one_valid_task_id(broker, race):
    job = queued_job()
    with locked(job) as until_waiting:
        for _ in range(2):
            race.run(lambda: dispatch.dispatch_run(CrawlJob, job.pk))
        until_waiting(2)
    ids = race.join()
    assert sorted(broker.ids()) == sorted(ids)
    assert [refused(lambda each=each: claims.claim(CrawlJob, job.pk, each, "w"))() for each in ids] == [
        each != fresh(job).task_id for each in ids
    ]


def test_claim_waiting_for_cancel_is_refused(broker, race):
    job = queued_job()
    with locked(job) as until_waiting:
        race.run(refused(lambda: claims.claim(CrawlJob, job.pk, job.task_id, "w")))
        until_waiting(1)
        parents.cancel(job.pk)
    assert race.join() == [True]
    assert fresh(job).status == "cancelled"


def test_claimed_child_does_not_start_cancelled_parent(broker, race):
    row = sent_child()
    job = row.crawl_job
    with locked(job) as until_waiting:
        race.run(refused(lambda: claims.claim(CrawlJobSourceResult, row.pk, row.task_id, "w")))
        until_waiting(1)
        parents.cancel(job.pk)
    race.join()
    assert fresh(job).status == "cancelled"
    assert fresh(job).started_at is None
    assert fresh(row).status == "skipped"


@pytest.mark.parametrize("end", ENDS)
def test_end_waiting_for_cancel_is_refused_and_parent_stays_cancelled(broker, race, end):
    job = parent("running")
    (last,) = job.source_results.all()
    with locked(last) as until_waiting:
        race.run(refused(lambda: ENDS[end](claim_of(last))))
        until_waiting(1)
        parents.cancel(job.pk)
    assert race.join() == [True]
    assert fresh(last).status == "skipped"
    assert fresh(job).status == "cancelled"


@pytest.mark.parametrize("end", ENDS)
def test_cancel_waiting_for_child_end_keeps_that_end(broker, race, end):
    job = parent("running", "running")
    first, second = job.source_results.all()
    with transaction.atomic():
        ENDS[end](claim_of(first))
        race.run(lambda: parents.cancel(job.pk))
        wait_until(lambda: blocked(1), what="the cancel waits for the child")
    assert race.join() == [True]
    assert fresh(first).status == end
    assert fresh(second).status == "skipped"
    after = fresh(job)
    assert after.status == "cancelled"
    assert after.finalized_at is not None


def test_cancel_waiting_for_child_retry_revokes_new_task(broker, race):
    job = parent("running")
    (last,) = job.source_results.all()
    with broker.revokes() as next_revoked:
        with transaction.atomic():
            claim_of(last).release(1)
            race.run(lambda: parents.cancel(job.pk))
            wait_until(lambda: blocked(1), what="the cancel waits for the child")
        assert race.join() == [True]
        assert next_revoked() == [fresh(last).task_id] != [last.task_id]
    assert fresh(last).status == "skipped"


def test_two_concurrent_cancels_cancel_once(broker, race):
    job = parent("running")
    with locked(job) as until_waiting:
        for _ in range(2):
            race.run(lambda: parents.cancel(job.pk))
        until_waiting(2)
    assert sorted(race.join()) == [False, True]


def test_two_deliveries_without_job_create_one_job(race):
    of = queued_job().source_id
    barrier = threading.Barrier(2)

    def create():
        connection.ensure_connection()
        barrier.wait(15)
        return dispatch.create_job(of, triggered_by="api", task_id="the-same-message").pk

    for _ in range(2):
        race.run(create)
    assert len(set(race.join())) == 1


def test_two_dispatchers_of_children_send_each_child_once(broker, race):
    job = parent(status="pending")
    children = [sent_child(job, task_id="") for _ in range(4)]
    with locked(*children) as until_waiting:
        for _ in range(2):
            race.run(lambda: dispatch.dispatch_children(job.pk))
        until_waiting(2)
    race.join()
    assert sorted(broker.ids()) == sorted(fresh(each).task_id for each in children)
