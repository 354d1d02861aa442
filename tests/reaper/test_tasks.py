"""The tasks that Beat starts: each kind by itself, warnings, and the pruning of history."""

from datetime import timedelta

import pytest
from celery import current_app
from freezegun import freeze_time

from reaper import conf, tasks
from reaper.models import Reaping, RefusedWrite, Sweep, WorkerReport
from reaper.signals import alerted
from tests.plugin.adapter import Parcels
from tests.reaper.test_sweeps import connected
from tests.worlds import HOUR, MINUTE, NOW, SECOND, child, fresh, lost_job, parent, queued_job, running_job, swept

HERE = "tests.reaper.test_tasks"
DAY = timedelta(days=1)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


class Unreachable(Parcels):
    """A kind whose every method fails, before a sweep has even begun."""

    kind = "unreachable"

    @property
    def using(self):
        raise OSError("boom")

    def unfinished(self, phase):
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
    answers = tasks.each_kind(lambda adapter: adapter.using)
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
        "prune_history",
    }


# --- warnings -----------------------------------------------------------------------------------------------------


@pytest.fixture
def heard():
    """The warnings that were signalled, as (reason, kind, keys). The sweeps themselves are well."""
    swept()
    found = []

    def note(sender, reason, runs, now, **_):
        assert now == NOW
        found.append((reason, sender.kind, {run.pk for run in runs}))

    alerted.connect(note)
    yield found
    alerted.disconnect(note)


@freeze_time(NOW)
def test_runs_that_are_running_or_waiting_for_long_are_told_at_once(heard, caplog):
    running_job(30 * MINUTE)
    long = [running_job(30 * MINUTE + SECOND), running_job(50 * MINUTE)]
    queued_job(15 * MINUTE)
    late = queued_job(15 * MINUTE + SECOND)
    small = child(parent(), "running", started_at=NOW - 31 * MINUTE)
    tasks.raise_alerts()
    assert heard == [
        ("long_running", "crawl_job", {str(job.pk) for job in long}),
        ("backlog", "crawl_job", {str(late.pk)}),
        ("long_running", "source_result", {str(small.pk)}),
    ]
    assert caplog.messages == [
        "long_running: 2 crawl_job runs, the oldest for 50 min",
        "backlog: 1 crawl_job runs, the oldest for 15 min 1 s",
        "long_running: 1 source_result runs, the oldest for 31 min",
    ]
    assert (Sweep.objects.filter(idle=False).count(), Reaping.objects.count()) == (0, 0)


@freeze_time(NOW)
def test_where_nothing_is_late_nothing_is_said(heard, caplog):
    running_job(30 * MINUTE)
    queued_job(15 * MINUTE)
    running_job(started_at=None, queued_at=None, created_at=NOW)
    tasks.raise_alerts()
    assert (heard, caplog.messages) == ([], [])


@freeze_time(NOW)
def test_a_sweep_that_does_not_go_as_it_should_is_told(caplog):
    swept(NOW - 15 * SECOND)
    failing = {"kind": "crawl_job", "phase": "queued", "errors": ["the broker did not answer"]}
    Sweep.objects.create(started_at=NOW, finished_at=NOW, **failing)
    told = []
    with connected(alerted, lambda sender, **said: told.append((sender.kind, said))):
        tasks.raise_alerts()
    assert told == [
        (
            "crawl_job",
            {
                "signal": alerted,
                "reason": "sweep_failing",
                "runs": [],
                "now": NOW,
                "phase": "queued",
                "says": "the broker did not answer",
            },
        )
    ]
    assert caplog.messages == ["sweep_failing: crawl_job queued: the broker did not answer"]


@freeze_time(NOW)
def test_a_kinds_own_threshold_counts(heard, limits):
    limits(KINDS={"crawl_job": {"ALERT_AFTER": 60}})
    running_job(MINUTE + SECOND)
    child(parent(), "running", started_at=NOW - MINUTE - SECOND)
    tasks.raise_alerts()
    assert [(reason, kind) for reason, kind, _ in heard] == [("long_running", "crawl_job")]


@freeze_time(NOW)
def test_warnings_of_the_other_kinds_are_told_when_one_kind_or_receiver_is_bad(bad_first, heard, caplog):
    def broken(**_):
        raise OSError("boom")

    running_job(40 * MINUTE)
    alerted.connect(broken)
    try:
        tasks.raise_alerts()
    finally:
        alerted.disconnect(broken)
    assert [reason for reason, *_ in heard] == ["long_running"]


# --- history ------------------------------------------------------------------------------------------------------


def sweep_row(ago, kind="crawl_job", phase="running", **fields):
    fields = {"finished_at": NOW - ago, **fields}
    return Sweep.objects.create(kind=kind, phase=phase, started_at=NOW - ago, **fields)


def reaping(ago, **fields):
    values = {"kind": "crawl_job", "run_id": "7", "phase": "running", "action": "fail", "reason": "timed_out"}
    return Reaping.objects.create(at=NOW - ago, **{**values, **fields})


@freeze_time(NOW)
def test_old_history_is_pruned_and_young_history_is_kept():
    reaping(90 * DAY + SECOND)
    RefusedWrite.objects.create(at=NOW - 91 * DAY, kind="crawl_job", run_id="7", write="claim")
    sweep_row(91 * DAY)
    young = [
        reaping(90 * DAY),
        RefusedWrite.objects.create(at=NOW - 90 * DAY, kind="crawl_job", run_id="7", write="claim"),
        sweep_row(90 * DAY),
    ]
    job = running_job(400 * DAY)
    tasks.prune_history()
    assert [Reaping.objects.get(), RefusedWrite.objects.get(), Sweep.objects.get()] == young
    assert fresh(job).status == "running"


@freeze_time(NOW)
def test_how_long_history_is_kept_is_a_setting(limits):
    limits(KEEP_HISTORY=DAY)
    reaping(DAY + SECOND)
    kept = reaping(DAY)
    tasks.prune_history()
    assert Reaping.objects.get() == kept


@freeze_time(NOW)
def test_the_last_good_sweep_of_every_kind_and_phase_outlives_its_time():
    sweep_row(400 * DAY)
    kept = {
        sweep_row(300 * DAY),
        sweep_row(300 * DAY, phase="queued"),
        sweep_row(400 * DAY, kind="source_result"),
        sweep_row(365 * DAY, phase="parents", idle=True),
    }
    sweep_row(200 * DAY, errors=["the broker did not take a message"])
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
    assert Reaping.objects.get() == kept
    assert Reaping.objects.get().sweep is None


@freeze_time(NOW)
def test_the_report_of_a_worker_that_is_long_gone_is_kept_while_a_running_run_names_it(parcels):
    gone = {"hostname": "celery@w1", "listed_at": NOW, "since": NOW, "seen_at": NOW - DAY - SECOND}
    for name in ("forgotten", "of a job", "of a child", "of a job that has ended"):
        WorkerReport.objects.create(incarnation=name, **gone)
    running_job(worker="celery@w1/of a job")
    child(parent(), "running", worker="celery@w1/of a child")
    running_job(worker="celery@w1/of a job that has ended", status="failed")
    tasks.prune_history()
    assert set(WorkerReport.objects.values_list("incarnation", flat=True)) == {"of a job", "of a child"}


@freeze_time(NOW)
def test_no_report_is_deleted_while_a_kind_cannot_say_whom_its_runs_name(bad_first):
    old = WorkerReport.objects.create(hostname="celery@w1", listed_at=NOW, since=NOW, seen_at=NOW - 2 * DAY)
    with pytest.raises(OSError, match="boom"):
        tasks.prune_reports()
    assert WorkerReport.objects.get() == old


@freeze_time(NOW)
def test_history_is_pruned_in_batches(monkeypatch, django_assert_num_queries):
    monkeypatch.setattr(tasks, "PRUNE_BATCH", 2)
    for _ in range(5):
        reaping(91 * DAY)
    with django_assert_num_queries(7):  # three batches to be found and deleted, and the look that finds none
        tasks.prune(Reaping.objects.all())
    assert Reaping.objects.count() == 0


def test_the_policy_of_a_broken_kind_is_still_readable(bad_first):
    assert conf.policy(conf.adapters()["unreachable"]).run_timeout == HOUR
