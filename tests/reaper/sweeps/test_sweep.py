"""Each rule, end to end: what a sweep of runs does with the row, the ledger and the broker."""

import pytest

from apps.sources.reaping import CrawlJobs
from reaper.core.facts import Phase
from reaper.core.policy import Action
from reaper.models import LedgerEntry, Sweep, WorkerHeartbeat
from reaper.signals import reaped, swept
from tests.factories import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    child,
    fresh,
    held_job,
    lost_job,
    orphan,
    parent,
    report,
    running_job,
    witness,
)
from tests.plugin.models import Parcel
from tests.reaper.sweeps.helpers import LOST, connected, everything, lose, sweep, sweep_queued, unsent_job
from tests.servers import Revoke, killed

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


@pytest.mark.django_db(transaction=True)
def test_run_beyond_run_timeout_is_failed_with_ledger_entry(broker):
    stuck, young = held_job(HOUR + SECOND), held_job(HOUR)
    row = sweep()
    stuck, young = fresh(stuck), fresh(young)
    assert stuck.status == "failed"
    assert stuck.error_code == "timed_out"
    assert stuck.completed_at == NOW
    assert stuck.error_message == (
        "Failed by the reaper: it was running longer than its run timeout (rule timed_out)."
        " It had been running for 1 h."
    )
    assert young.status == "running"
    reaping = LedgerEntry.objects.get()
    assert reaping.run_id == str(stuck.pk)
    assert reaping.action == "fail"
    assert reaping.task_id == stuck.task_id
    assert row.revoked_at is not None
    assert row.scanned == 2
    assert row.acted == 1
    assert row.errors == []
    assert row.counts == {"timed_out": 1, "in_progress": 1}
    assert broker.revokes() == [killed([stuck.task_id], "celery@w1")]
    assert broker.ids() == []


def test_task_is_terminated_only_where_a_worker_reports_it_running(broker):
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
def test_run_of_dead_worker_is_failed_at_once(broker):
    stuck, young, healthy = orphan(13 * SECOND), orphan(4 * SECOND, worker="celery@dead/def"), held_job(MINUTE)
    row = sweep()
    assert fresh(stuck).status == "failed"
    assert fresh(stuck).error_code == "orphaned"
    assert fresh(young).status == "running"
    assert fresh(healthy).status == "running"
    assert row.counts == {"orphaned": 1, "in_progress": 2}
    assert row.errors == []
    reaping = LedgerEntry.objects.get()
    assert reaping.reason == "orphaned"
    assert reaping.evidence["claimant_liveness"] == "dead"
    assert broker.revokes() == [Revoke([stuck.task_id])]


def test_runs_without_witness_are_left_inconclusive(broker):
    orphan()
    lost_job()
    WorkerHeartbeat.objects.filter(hostname="celery@crawl-witness").delete()
    before = everything()
    assert sweep().counts == {"inconclusive": 1}
    assert sweep_queued().counts == {"inconclusive": 1}
    assert everything()[:3] == before[:3]
    assert broker.ids() == []
    assert broker.revokes() == []


@pytest.mark.django_db(transaction=True)
def test_lost_run_is_requeued_under_new_task_id(broker):
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
    assert task_id == after.task_id
    assert task == "apps.sources.tasks.crawl_source"
    assert args == [str(stuck.source_id)]
    assert kwargs == {"crawl_job_id": str(stuck.pk)}
    assert broker.revokes() == [Revoke([stuck.task_id], False, None)]


@pytest.mark.django_db(transaction=True)
def test_second_sweep_right_after_does_nothing(broker):
    running_job(2 * HOUR)
    sweep()
    broker.revokes()
    assert sweep().acted == 0
    assert LedgerEntry.objects.count() == 1
    assert Sweep.objects.filter(idle=True).count() == 1
    assert broker.revokes() == []


def test_run_never_sent_is_sent_after_grace(broker):
    lost, waits = (unsent_job(seconds * SECOND, queued_at=None) for seconds in (31, 30))
    row = sweep_queued()
    assert broker.ids() == [fresh(lost).task_id]
    assert fresh(waits).task_id == ""
    assert row.counts == {"never_sent": 1, "within_grace": 1}
    assert broker.revokes() == []


@pytest.mark.parametrize("stamps", [{"started_at": None}, {"started_at": None, "heartbeat_at": NOW - HOUR - SECOND}])
def test_running_run_without_start_is_found_and_failed(stamps):
    stuck = running_job(HOUR + SECOND, **stamps)
    sweep()
    assert fresh(stuck).status == "failed"
    assert fresh(stuck).completed_at == NOW


@pytest.mark.parametrize("status", ["pending", "running"])
@pytest.mark.parametrize(
    ("ended_as", "after"), [("cancelled", "cancelled"), ("failed", "failed"), ("completed", "completed")]
)
def test_run_of_ended_parent_is_closed_and_revoked(broker, status, ended_as, after):
    job = parent(status=ended_as)
    orphan = child(job, status)
    row = sweep("source_result", Phase.RUNNING if status == "running" else Phase.QUEUED)
    orphan = fresh(orphan)
    assert orphan.status == "skipped"
    assert orphan.error_code == "parent_ended"
    assert orphan.completed_at == NOW
    assert broker.revokes() == [Revoke([orphan.task_id], False, None)]
    assert fresh(job).status == after
    assert row.acted == 1
    assert row.errors == []


def test_earlier_message_of_run_is_kept():
    stuck = running_job(2 * HOUR, error_message="The site was slow.")
    sweep()
    assert fresh(stuck).error_message.startswith("The site was slow.\nFailed by the reaper: ")


def test_second_adapter_is_swept_as_well(parcels, broker):
    lost = parcels.create(stage="new", job="t1", made=NOW - LOST)
    lose(broker, lost, at=NOW, queue="parcels")
    witness("parcels")
    stuck = parcels.create(stage="underway", job="t2", made=NOW, picked=NOW - HOUR - SECOND)
    sweep("parcel")
    sweep_queued("parcel")
    assert broker.waiting("parcels") == [(fresh(lost).job, "tests.plugin.deliver", [lost.pk], {})]
    assert fresh(stuck).stage == "lost"
    assert fresh(stuck).note == "Failed by the reaper: it was running longer than its run timeout"[:60]
    assert {each.kind for each in LedgerEntry.objects.all()} == {"parcel"}
    assert Parcel.objects.count() == 2


def test_signals_report_each_action_and_each_sweep():
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
