"""The tasks that Beat starts: each kind by itself, warnings, and the pruning of history."""

from datetime import timedelta

import pytest
from celery import current_app
from freezegun import freeze_time

from reaper import tasks
from reaper.conf import settings as conf
from reaper.ledger import retention
from reaper.models import LedgerEntry, RefusedWrite, Sweep, WorkerHeartbeat
from tests.factories import HOUR, NOW, SECOND, child, fresh, lost_job, parent, running_job
from tests.plugin.adapter import Parcels

HERE = "tests.reaper.test_tasks"
DAY = timedelta(days=1)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


class Unreachable(Parcels):
    """A kind whose every method fails, before a sweep has even begun."""

    kind = "unreachable"

    @property
    def using(self):
        raise OSError("boom")

    def iter_unfinished(self, phase):
        raise OSError("boom")


@pytest.fixture
def bad_first(limits, settings):
    """The first of the kinds fails, whatever is asked of it."""
    limits(ADAPTERS=[f"{HERE}.Unreachable", *settings.REAPER["ADAPTERS"]])


@freeze_time(NOW)
def test_one_bad_kind_does_not_stop_the_others(bad_first, caplog):
    running, lost, job = running_job(2 * HOUR), lost_job(HOUR), parent("completed")
    tasks.sweep_running()
    tasks.sweep_pending()
    tasks.finalize_parents()
    assert fresh(running).status == "failed"
    assert fresh(lost).task_id != lost.task_id
    assert fresh(job).finalized_at == NOW
    assert caplog.text.count("unreachable failed") == 3


def test_every_kind_answers_for_itself(bad_first):
    answers = tasks.for_each_kind(lambda adapter: adapter.using)
    assert answers == {"unreachable": "OSError: boom", "crawl_job": "default", "source_result": "default"}


@freeze_time(NOW)
def test_each_task_sweeps_its_own_phase_of_every_kind():
    running, lost = running_job(2 * HOUR), lost_job(HOUR)
    tasks.sweep_pending()
    assert fresh(running).status == "running"
    assert set(Sweep.objects.values_list("kind", "phase")) == {("crawl_job", "queued"), ("source_result", "queued")}
    before = fresh(lost).task_id
    tasks.sweep_running()
    assert (fresh(running).status, fresh(lost).task_id) == ("failed", before)
    tasks.finalize_parents()
    assert set(Sweep.objects.filter(phase="parents").values_list("kind", flat=True)) == {"crawl_job", "source_result"}


def test_the_tasks_are_registered_under_the_names_that_the_schedules_use():
    current_app.loader.import_default_modules()
    names = {f"reaper.tasks.{name}" for name in dir(tasks) if f"reaper.tasks.{name}" in current_app.tasks}
    assert {name.rpartition(".")[2] for name in names} == {
        "sweep_running",
        "sweep_pending",
        "finalize_parents",
        "raise_alerts",
        "send_notifications",
        "prune_history",
    }


# --- history ------------------------------------------------------------------------------------------------------


def sweep_row(ago, kind="crawl_job", phase="running", **fields):
    fields = {"finished_at": NOW - ago, **fields}
    return Sweep.objects.create(kind=kind, phase=phase, started_at=NOW - ago, **fields)


def reaping(ago, **fields):
    values = {"kind": "crawl_job", "run_id": "7", "phase": "running", "action": "fail", "reason": "timed_out"}
    return LedgerEntry.objects.create(created_at=NOW - ago, **{**values, **fields})


@freeze_time(NOW)
def test_old_history_is_pruned_and_young_history_is_kept():
    reaping(90 * DAY + SECOND)
    RefusedWrite.objects.create(created_at=NOW - 91 * DAY, kind="crawl_job", run_id="7", write="claim")
    sweep_row(91 * DAY)
    young = [
        reaping(90 * DAY),
        RefusedWrite.objects.create(created_at=NOW - 90 * DAY, kind="crawl_job", run_id="7", write="claim"),
        sweep_row(90 * DAY),
    ]
    job = running_job(400 * DAY)
    tasks.prune_history()
    assert [LedgerEntry.objects.get(), RefusedWrite.objects.get(), Sweep.objects.get()] == young
    assert fresh(job).status == "running"


@freeze_time(NOW)
def test_how_long_history_is_kept_is_a_setting(limits):
    limits(HISTORY_RETENTION=DAY)
    reaping(DAY + SECOND)
    kept = reaping(DAY)
    tasks.prune_history()
    assert LedgerEntry.objects.get() == kept


@freeze_time(NOW)
def test_the_last_good_sweep_of_every_kind_and_phase_outlives_its_time():
    sweep_row(400 * DAY)
    kept = {
        sweep_row(300 * DAY),
        sweep_row(300 * DAY, phase="queued"),
        sweep_row(400 * DAY, kind="source_result"),
        sweep_row(365 * DAY, phase="parents", idle=True),
    }
    sweep_row(200 * DAY, errors=[{"code": "broker_unavailable", "message": "publishing to the broker failed"}])
    sweep_row(200 * DAY, finished_at=None)
    tasks.prune_history()
    assert set(Sweep.objects.all()) == kept


@freeze_time(NOW)
def test_a_young_good_sweep_lets_the_old_one_go():
    sweep_row(300 * DAY)
    young = sweep_row(DAY)
    tasks.prune_history()
    assert Sweep.objects.get() == young


@freeze_time(NOW)
def test_a_reaping_outlives_its_sweep():
    old = sweep_row(91 * DAY)
    sweep_row(DAY)
    kept = reaping(89 * DAY, sweep=old)
    tasks.prune_history()
    assert LedgerEntry.objects.get() == kept
    assert LedgerEntry.objects.get().sweep is None


@freeze_time(NOW)
def test_the_report_of_a_worker_that_is_long_gone_is_kept_while_a_running_run_names_it(parcels):
    gone = {"hostname": "celery@w1", "listed_at": NOW, "since": NOW, "seen_at": NOW - DAY - SECOND}
    for name in ("forgotten", "of a job", "of a child", "of a job that has ended"):
        WorkerHeartbeat.objects.create(incarnation=name, **gone)
    running_job(worker="celery@w1/of a job")
    child(parent(), "running", worker="celery@w1/of a child")
    running_job(worker="celery@w1/of a job that has ended", status="failed")
    tasks.prune_history()
    assert set(WorkerHeartbeat.objects.values_list("incarnation", flat=True)) == {"of a job", "of a child"}


@freeze_time(NOW)
def test_no_report_is_deleted_while_a_kind_cannot_say_whom_its_runs_name(bad_first):
    old = WorkerHeartbeat.objects.create(hostname="celery@w1", listed_at=NOW, since=NOW, seen_at=NOW - 2 * DAY)
    with pytest.raises(OSError, match="boom"):
        tasks.prune_heartbeats()
    assert WorkerHeartbeat.objects.get() == old


@freeze_time(NOW)
def test_history_is_pruned_in_batches(monkeypatch, django_assert_num_queries):
    monkeypatch.setattr(retention, "PRUNE_BATCH", 2)
    for _ in range(5):
        reaping(91 * DAY)
    with django_assert_num_queries(7):  # three batches to be found and deleted, and the look that finds none
        retention.prune(LedgerEntry.objects.all())
    assert LedgerEntry.objects.count() == 0


def test_the_policy_of_a_broken_kind_is_still_readable(bad_first):
    assert conf.policy(conf.adapters()["unreachable"]).run_timeout == HOUR
