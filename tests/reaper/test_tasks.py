"""The tasks that Beat starts: each kind by itself, warnings, and the pruning of history."""

from datetime import timedelta

import pytest
from celery import current_app
from freezegun import freeze_time

from reaper import tasks
from reaper.conf import settings as conf
from reaper.models import Sweep, WorkerHeartbeat
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
def test_failing_kind_does_not_stop_the_others(bad_first, caplog):
    running, lost, job = running_job(2 * HOUR), lost_job(HOUR), parent("completed")
    tasks.sweep_running()
    tasks.sweep_pending()
    tasks.finalize_parents()
    assert fresh(running).status == "failed"
    assert fresh(lost).task_id != lost.task_id
    assert fresh(job).finalized_at == NOW
    assert caplog.text.count("unreachable failed") == 3


def test_for_each_kind_returns_result_or_error_per_kind(bad_first):
    answers = tasks.for_each_kind(lambda adapter: adapter.using)
    assert answers == {"unreachable": "OSError: boom", "crawl_job": "default", "source_result": "default"}


@freeze_time(NOW)
def test_each_task_sweeps_its_own_scope_of_every_kind():
    running, lost = running_job(2 * HOUR), lost_job(HOUR)
    tasks.sweep_pending()
    assert fresh(running).status == "running"
    assert set(Sweep.objects.values_list("kind", "phase")) == {("crawl_job", "queued"), ("source_result", "queued")}
    before = fresh(lost).task_id
    tasks.sweep_running()
    assert fresh(running).status == "failed"
    assert fresh(lost).task_id == before
    tasks.finalize_parents()
    assert set(Sweep.objects.filter(phase="parents").values_list("kind", flat=True)) == {"crawl_job", "source_result"}


def test_tasks_are_registered_under_their_scheduled_names():
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


@freeze_time(NOW)
def test_heartbeat_named_by_a_running_run_is_not_pruned(parcels):
    gone = {"hostname": "celery@w1", "listed_at": NOW, "since": NOW, "seen_at": NOW - DAY - SECOND}
    for name in ("forgotten", "of a job", "of a child", "of a job that has ended"):
        WorkerHeartbeat.objects.create(incarnation=name, **gone)
    running_job(worker="celery@w1/of a job")
    child(parent(), "running", worker="celery@w1/of a child")
    running_job(worker="celery@w1/of a job that has ended", status="failed")
    tasks.prune_history()
    assert set(WorkerHeartbeat.objects.values_list("incarnation", flat=True)) == {"of a job", "of a child"}


@freeze_time(NOW)
def test_heartbeats_are_kept_while_a_kind_cannot_be_read(bad_first):
    old = WorkerHeartbeat.objects.create(hostname="celery@w1", listed_at=NOW, since=NOW, seen_at=NOW - 2 * DAY)
    with pytest.raises(OSError, match="boom"):
        tasks.prune_heartbeats()
    assert WorkerHeartbeat.objects.get() == old


def test_policy_of_a_failing_kind_is_readable(bad_first):
    assert conf.policy(conf.adapters()["unreachable"]).run_timeout == HOUR
