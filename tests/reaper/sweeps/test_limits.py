"""How much a sweep does, and how often with the same run: budgets, backoff, MAX_ACTIONS, pages and batches."""

import pytest
from freezegun import freeze_time

from apps.sources import dispatch
from apps.sources.models import CrawlJob
from apps.sources.reaping import CrawlJobs
from reaper.core import brake
from reaper.core.decisions import PUBLISH_GRACE
from reaper.db import pagination as reading
from reaper.models import LedgerEntry
from tests.factories import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    fresh,
    lost_job,
    running_job,
    witness,
)
from tests.reaper.sweeps.helpers import LATER, LOST, lose, requeues, start, sweep, sweep_queued, unsent_job

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


def test_repeatedly_lost_run_is_failed_as_poison(limits):
    limits(KINDS={"crawl_job": {"ON_TIMEOUT": "requeue"}})
    job, at = running_job(2 * HOUR), NOW
    ids = {job.task_id}
    for count in (1, 2, 3):
        assert sweep(at=at).acted == 1
        assert fresh(job).status == "pending"
        assert requeues(job) == count
        ids.add(fresh(job).task_id)
        start(job, at)
        at += 2 * HOUR
    assert len(ids) == 4
    assert sweep(at=at).acted == 1
    job = fresh(job)
    assert job.status == "failed"
    assert job.error_code == "poison"
    assert job.completed_at == at
    assert "rule timed_out" in job.error_message
    assert "Given up after 3 requeues." in job.error_message
    assert LedgerEntry.objects.latest("id").exhausted is True
    assert requeues(job) == 3


def test_run_that_never_starts_is_failed_after_its_redispatches(broker):
    job, at = lost_job(LOST), NOW
    for count in (1, 2, 3, 4, 5):
        assert sweep_queued(at=at).acted == 1
        assert fresh(job).status == "pending"
        assert requeues(job) == count
        at += LATER
        lose(broker, job, at=at)
    assert sweep_queued(at=at).acted == 1
    assert fresh(job).status == "failed"
    assert fresh(job).error_code == "poison"
    assert "Given up after 5 requeues." in fresh(job).error_message
    assert sweep_queued(at=at + HOUR).acted == 0


def test_run_within_backoff_is_not_acted_on_again(broker, limits):
    limits(LOST_GRACE=1, MAX_REDISPATCHES=9)
    job, at = lost_job(6 * SECOND), NOW
    sweep_queued(at=at)
    for count, wait in ((2, 30 * SECOND), (3, 2 * MINUTE), (4, 8 * MINUTE), (5, 8 * MINUTE)):
        at += wait
        lose(broker, job, at=at)
        row = sweep_queued(at=at)
        assert row.acted == 0
        assert row.counts == {"backoff": 1}
        at += SECOND
        assert sweep_queued(at=at).acted == 1
        assert requeues(job) == count


@pytest.mark.django_db(transaction=True)
def test_manual_dispatch_resets_budget(broker, limits):
    limits(MAX_REDISPATCHES=1)
    job = lost_job(LOST)
    sweep_queued()
    at = NOW + 30 * MINUTE
    with freeze_time(at):
        dispatch.dispatch_run(CrawlJob, job.pk, manual=True)
    lose(broker, job, at=at + 30 * SECOND)
    assert sweep_queued(at=at + 30 * SECOND).acted == 0
    assert sweep_queued(at=at + LOST).acted == 1
    assert fresh(job).status == "pending"
    assert requeues(job) == 2
    lose(broker, job, at=at + LATER)
    sweep_queued(at=at + LATER)
    assert fresh(job).status == "failed"
    assert fresh(job).error_code == "poison"


def test_kind_without_dispatch_time_is_requeued_at_its_grace_only(parcels, broker, limits):
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


def test_max_actions_defers_the_rest(limits, broker):
    limits(MAX_ACTIONS=2)
    jobs = [lost_job(LOST + number * SECOND) for number in range(5)]
    rows = [sweep_queued() for _ in range(3)]
    assert [(row.acted, row.deferred) for row in rows] == [(2, 3), (2, 1), (1, 0)]
    assert all(not row.idle for row in rows)
    assert sorted(broker.ids()) == sorted(fresh(job).task_id for job in jobs)
    assert LedgerEntry.objects.count() == 5


def test_late_publish_counts_towards_max_actions(limits, broker, monkeypatch, tmp_path):
    jobs = [unsent_job(LOST + number * SECOND) for number in range(3)]
    with monkeypatch.context() as patch:
        patch.setenv("CELERY_BROKER_WRITE_URL", f"redis+socket://{tmp_path}/nobody.sock")
        assert sweep_queued().acted == 3
    limits(MAX_ACTIONS=2)
    rows = [sweep_queued(at=NOW + PUBLISH_GRACE + SECOND) for _ in range(2)]
    assert [(row.acted, row.deferred) for row in rows] == [(2, 1), (1, 0)]
    assert sorted(broker.ids()) == sorted(fresh(job).task_id for job in jobs)


def test_max_actions_takes_the_oldest_first(limits):
    limits(MAX_ACTIONS=1)
    jobs = [running_job(ago) for ago in (2 * HOUR, 4 * HOUR, 3 * HOUR)]
    sweep()
    assert [fresh(job).status for job in jobs] == ["running", "failed", "running"]


def test_sweep_of_many_batches_and_pages_reaches_every_run_once(monkeypatch, broker):
    monkeypatch.setattr(reading, "PAGE", 3)
    monkeypatch.setattr("reaper.sweeps.sweep.BATCH", 2)
    jobs = [lost_job(LOST + number * SECOND) for number in range(8)]
    row = sweep_queued()
    assert row.scanned == 8
    assert row.acted == 8
    assert row.conflicts == 0
    assert row.counts == {"lost": 8}
    assert sorted(broker.ids()) == sorted(fresh(job).task_id for job in jobs)
    assert sorted(task_id for revoke in broker.revokes() for task_id in revoke.ids) == sorted(j.task_id for j in jobs)


@pytest.mark.parametrize("limit", ["MAX_ACTIONS", "brake"])
def test_unwritable_runs_do_not_use_up_max_actions(monkeypatch, limits, limit):
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
    assert row.acted == 2
    assert row.conflicts == 3
    assert [fresh(job).status for job in jobs] == [*["running"] * 3, *["failed"] * 2, "running"]
    assert sweep(Locked(), at=NOW + SECOND).acted == 1


def test_runs_beyond_max_actions_are_not_read(monkeypatch, limits):
    monkeypatch.setattr(reading, "PAGE", 2)
    limits(MAX_ACTIONS=3)
    for _ in range(7):
        running_job(2 * HOUR)
    rows = [sweep(at=NOW + number * SECOND) for number in range(3)]
    assert [(row.scanned, row.acted, row.deferred) for row in rows] == [(4, 3, 1), (4, 3, 1), (1, 1, 0)]


def test_conflict_lets_only_one_more_page_be_read(monkeypatch, limits):
    monkeypatch.setattr(reading, "PAGE", 2)
    limits(MAX_ACTIONS=4)
    first, *_ = (running_job((20 - number) * HOUR) for number in range(10))

    class Locked(CrawlJobs):
        def apply(self, changes, now):
            return super().apply([change for change in changes if change.run.pk != str(first.pk)], now)

    row = sweep(Locked())
    assert row.scanned == 6
    assert row.acted == 4
    assert row.conflicts == 1
    assert row.deferred == 1
