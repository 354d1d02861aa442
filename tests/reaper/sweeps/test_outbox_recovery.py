"""What the broker did not take, or a dead sweep did not send, is sent by a later sweep."""

import pytest
from django.db import DatabaseError
from freezegun import freeze_time

from apps.sources import dispatch
from apps.sources.models import CrawlJob
from apps.sources.reaping import CrawlJobs
from reaper.broker.connection import Broker
from reaper.core.decisions import PUBLISH_GRACE
from reaper.core.facts import Phase
from reaper.core.sweep_errors import ErrorCode
from reaper.models import LedgerEntry, Sweep
from reaper.signals import reaped
from tests.factories import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    executing,
    fresh,
    held_job,
    lost_job,
    running_job,
)
from tests.reaper.sweeps.helpers import LOST, connected, requeues, sweep, sweep_queued, unsent_job, within
from tests.servers import killed

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


@pytest.mark.django_db(transaction=True)
def test_publish_missed_by_death_after_commit_is_sent_by_next_sweep(broker):
    class Dying(CrawlJobs):
        def messages(self, of):
            raise SystemExit("killed")

    job = lost_job(LOST)
    with pytest.raises(SystemExit):
        sweep_queued(Dying())
    cut_off, requeued = Sweep.objects.get(), fresh(job)
    assert cut_off.finished_at is None
    assert not cut_off.idle
    assert requeued.task_id != job.task_id
    assert broker.ids() == []
    assert LedgerEntry.objects.get().published_at is None
    assert sweep_queued(at=NOW + PUBLISH_GRACE).acted == 0
    assert broker.ids() == []
    later = NOW + PUBLISH_GRACE + SECOND
    row = sweep_queued(at=later)
    assert broker.ids() == [requeued.task_id]
    assert row.acted == 1
    assert row.counts == {"unpublished": 1}
    assert row.errors == []
    assert LedgerEntry.objects.get().published_at == later
    assert requeues(job) == 1
    assert fresh(job).task_id == requeued.task_id
    assert sweep_queued(at=later + SECOND).acted == 0


@pytest.mark.django_db(transaction=True)
def test_revoke_missed_by_death_after_commit_is_sent_by_next_sweep(broker, monkeypatch):
    job = held_job(2 * HOUR)

    def dies(*_args, **_more):
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Broker, "revoke", dies)
        with pytest.raises(SystemExit):
            sweep()
    cut_off = LedgerEntry.objects.get().sweep
    assert fresh(job).status == "failed"
    assert cut_off.revoked_at is None
    sweep(at=NOW + SECOND)
    assert broker.revokes() == [killed([job.task_id], "celery@w1")]
    cut_off.refresh_from_db()
    assert cut_off.revoked_at == NOW + SECOND
    sweep(at=NOW + 2 * SECOND)
    assert broker.revokes() == []


@pytest.mark.django_db(transaction=True)
def test_revoke_missed_by_error_after_commit_is_sent_by_next_sweep(broker, monkeypatch):
    job = held_job(2 * HOUR)

    def fails(*_):
        raise DatabaseError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(CrawlJobs, "task_ids_in_use", fails)
        row = sweep()
    assert fresh(job).status == "failed"
    assert row.revoked_at is None
    assert broker.revokes() == []
    assert "gone" in row.error_messages[0]
    sweep(at=NOW + SECOND)
    assert broker.revokes() == [killed([job.task_id], "celery@w1")]


def test_pending_revoke_is_dropped_after_an_hour(broker, monkeypatch, tmp_path):
    job = held_job(2 * HOUR)
    with monkeypatch.context() as patch:
        patch.setenv("CELERY_BROKER_WRITE_URL", f"redis+socket://{tmp_path}/nobody.sock")
        sweep()
    executing(name=job.worker)
    sweep(at=NOW + HOUR)
    assert broker.revokes() == []
    sweep(at=NOW + HOUR - SECOND)
    assert broker.revokes() == [killed([job.task_id], "celery@w1")]


def test_manual_dispatch_replaces_unconfirmed_publish(broker):
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


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.QUEUED])
def test_refusing_broker_loses_nothing_and_uses_no_retries(broker, monkeypatch, tmp_path, phase):
    job = held_job(2 * HOUR) if phase is Phase.RUNNING else unsent_job()
    with monkeypatch.context() as patch, within(10):
        patch.setenv("CELERY_BROKER_WRITE_URL", f"redis+socket://{tmp_path}/nobody.sock")
        row = sweep(phase=phase)
        executing(name="celery@w1/abc")
        again = sweep(phase=phase, at=NOW + HOUR / 2)
    assert row.acted == 1
    assert {error.code for error in row.recorded_errors} == {ErrorCode.BROKER_UNAVAILABLE}
    assert again.acted == 0
    assert broker.ids() == []
    assert broker.revokes() == []
    row = sweep(phase=phase, at=NOW + HOUR / 2 + SECOND)
    assert row.errors == []
    assert broker.revokes() == ([killed([job.task_id], "celery@w1")] if phase is Phase.RUNNING else [])
    assert broker.ids() == ([fresh(job).task_id] if phase is Phase.QUEUED else [])
    assert requeues(job) == (phase is Phase.QUEUED)
    assert LedgerEntry.objects.count() == 1


def test_unreachable_broker_loses_no_message(broker, refusing_broker, monkeypatch, redis_server):
    jobs = [lost_job(ago) for ago in (LOST, HOUR, 24 * HOUR)]
    unsent = unsent_job()
    row = sweep_queued()
    assert row.acted == 0
    assert row.deferred == 1
    assert row.counts == {"inconclusive": 3, "never_sent": 1}
    assert not LedgerEntry.objects.exists()
    assert [fresh(job).task_id for job in (*jobs, unsent)] == [*(job.task_id for job in jobs), ""]
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", redis_server.url)
    row = sweep_queued(at=NOW + SECOND)
    assert row.acted == 4
    assert row.counts == {"lost": 3, "never_sent": 1}
    assert row.errors == []
    assert {requeues(job) for job in (*jobs, unsent)} == {1}


def test_refusing_broker_defers_further_requeues(monkeypatch, refusing_broker):
    monkeypatch.setattr("reaper.sweeps.sweep.BATCH", 2)
    jobs = [unsent_job(LOST + (9 - number) * SECOND) for number in range(5)]
    row = sweep_queued()
    assert row.acted == 2
    assert row.deferred == 3
    assert [requeues(job) for job in jobs] == [1, 1, 0, 0, 0]
    row = sweep_queued(at=NOW + PUBLISH_GRACE + SECOND)
    assert row.acted == 0
    assert row.deferred == 5
    assert [requeues(job) for job in jobs] == [1, 1, 0, 0, 0]


def test_refusing_broker_does_not_stop_fails(monkeypatch, refusing_broker):
    monkeypatch.setattr("reaper.sweeps.sweep.BATCH", 2)
    jobs = [running_job(2 * HOUR) for _ in range(5)]
    row = sweep()
    assert row.acted == 5
    assert row.deferred == 0
    assert {fresh(job).status for job in jobs} == {"failed"}


@pytest.mark.live
@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.QUEUED])
def test_hanging_broker_does_not_delay_the_sweep(hanging_broker, phase):
    jobs = [held_job(2 * HOUR) if phase is Phase.RUNNING else unsent_job() for _ in range(3)]
    with within(10):
        row = sweep(phase=phase, tick=True)
    assert row.acted == 3
    assert "publishing to the broker failed" in row.error_messages[0]
    hanging_broker.resume()
    row = sweep(phase=phase, at=NOW + MINUTE, tick=True)
    assert row.errors == []
    assert not Sweep.objects.filter(revoked_at=None, idle=False).exists()
    if phase is Phase.QUEUED:
        assert sorted(hanging_broker.ids()) == sorted(fresh(job).task_id for job in jobs)
        assert [requeues(job) for job in jobs] == [1, 1, 1]


@pytest.mark.live
@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.QUEUED])
def test_broker_lost_in_mid_sweep_does_not_delay_the_sweep(hanging_broker, monkeypatch, phase, end):
    monkeypatch.setattr("reaper.sweeps.sweep.BATCH", 1)
    jobs = [held_job(2 * HOUR) if phase is Phase.RUNNING else lost_job(LOST) for _ in range(3)]
    hanging_broker.resume()

    def goes(**_):
        hanging_broker.stop() if end == "stop" else hanging_broker.process.kill()

    with connected(reaped, goes), within(10):
        row = sweep(phase=phase, tick=True)
    assert "publishing to the broker failed" in row.error_messages[0]
    assert row.acted + row.deferred == 3
    assert row.revoked_at is None
    assert LedgerEntry.objects.count() == row.acted
    assert all(requeues(job) <= 1 for job in jobs)
