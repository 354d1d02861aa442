"""How the sweeps are doing: at each limit and one second beyond it."""

import pytest
from django_celery_beat.models import PeriodicTask

from reaper.conf import settings as conf
from reaper.controls.modes import set_controls
from reaper.models import Sweep
from reaper.reports.health import health_of
from tests.factories import HOUR, MINUTE, NOW, SECOND, swept

# With Beat's tables: the schedules are there as migrate has made them.
HELD = {"code": "brake_engaged", "message": "30 of 40"}
BROKER_DOWN = {"code": "broker_unavailable", "message": "the broker did not answer"}

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("limits")]


def conditions(at=NOW, phase="running", kind="crawl_job"):
    """The conditions of one kind and scope."""
    return next(each.conditions for each in health_of(conf.adapters()[kind], at) if each.phase == phase)


def notes(at=NOW):
    return next(each.notes for each in health_of(conf.adapters()["crawl_job"], at) if each.phase == "running")


def swept_running(**fields):
    values = {"kind": "crawl_job", "phase": "running", "started_at": NOW, "finished_at": NOW, **fields}
    return Sweep.objects.create(**values)


def test_sweeps_in_time_have_no_conditions():
    swept()
    assert [each.conditions for adapter in conf.adapters().values() for each in health_of(adapter, NOW)] == [{}] * 5


def test_kind_never_swept_is_overdue():
    assert conditions() == {"sweep_overdue": "never swept"}


@pytest.mark.parametrize(("phase", "every"), [("running", 5), ("queued", 30), ("parents", 60)])
def test_sweep_is_overdue_after_three_of_its_intervals(phase, every):
    swept()
    assert conditions(NOW + 3 * every * SECOND, phase, "source_result") == {}
    assert set(conditions(NOW + (3 * every + 1) * SECOND, phase, "source_result")) == {"sweep_overdue"}


def test_interval_edited_in_beat_is_used():
    swept()
    row = PeriodicTask.objects.get(task="reaper.tasks.sweep_running")
    row.interval, _ = type(row.interval).objects.get_or_create(every=10, period="minutes")
    row.save()
    assert conditions(NOW + 30 * MINUTE) == {}
    assert conditions(NOW + 30 * MINUTE + SECOND) == {"sweep_overdue": "the last sweep ended 30 min 1 s ago"}


def test_without_a_schedule_one_sweep_a_minute_is_in_time():
    PeriodicTask.objects.filter(task="reaper.tasks.sweep_running").delete()
    swept()
    assert conditions(NOW + 3 * MINUTE) == {}
    assert notes(NOW + 3 * MINUTE) == ["no schedule"]
    assert set(conditions(NOW + 3 * MINUTE + SECOND)) == {"sweep_overdue"}


def test_disabled_schedule_replaces_sweep_overdue():
    PeriodicTask.objects.filter(task="reaper.tasks.sweep_running").update(enabled=False)
    assert conditions() == {"switched_off": "its schedule is disabled"}


def test_mode_off_is_a_condition_that_names_the_user():
    swept()
    set_controls(conf.adapters()["crawl_job"], "ada", NOW, mode="off")
    assert conditions() == {"switched_off": "mode set to off by ada"}
    assert conditions(kind="source_result") == {}


def test_pause_is_a_condition_until_it_ends():
    swept(NOW + HOUR)
    set_controls(conf.adapters()["crawl_job"], "ada", NOW, paused_until=NOW + HOUR)
    assert conditions(NOW + HOUR - SECOND) == {"switched_off": "paused by ada until 2026-03-01 13:00:00 UTC"}
    assert conditions(NOW + HOUR) == {}


def test_dry_run_is_a_note_and_no_condition():
    swept()
    set_controls(conf.adapters()["crawl_job"], "ada", NOW, mode="dry_run")
    assert conditions() == {}
    assert notes() == ["mode set to dry_run by ada"]


def test_overridden_brake_is_a_note_and_no_condition():
    swept()
    set_controls(conf.adapters()["crawl_job"], "ada", NOW, released_until=NOW + HOUR)
    assert conditions() == {}
    assert notes() == ["brake lifted by ada"]


def test_holds_and_errors_of_the_last_sweep_are_two_conditions():
    swept()
    swept_running(errors=[HELD, BROKER_DOWN])
    assert conditions() == {"brake_engaged": "30 of 40", "sweep_failing": "the broker did not answer"}


def test_failing_or_held_sweep_is_no_success_and_not_overdue():
    for error in (HELD, BROKER_DOWN):
        Sweep.objects.all().delete()
        swept_running(errors=[error])
        assert "sweep_overdue" not in conditions(NOW + 15 * SECOND)
        assert "sweep_overdue" in conditions(NOW + 16 * SECOND)
        assert health_of(conf.adapters()["crawl_job"], NOW)[0].since_success is None


def test_errors_of_an_earlier_sweep_are_over():
    swept_running(started_at=NOW - SECOND, errors=[BROKER_DOWN])
    swept()
    assert conditions() == {}


def test_interrupted_sweep_is_failing_after_a_minute():
    swept_running(started_at=NOW, finished_at=None)
    sentence = "the sweep that started at 12:00:00 has not ended"
    assert "sweep_failing" not in conditions(NOW + MINUTE)
    assert notes(NOW + MINUTE) == [sentence]
    assert conditions(NOW + MINUTE + SECOND)["sweep_failing"] == sentence


def test_unfinished_sweep_does_not_hide_errors_of_the_previous_one():
    swept_running(started_at=NOW - SECOND, finished_at=NOW - SECOND, errors=[BROKER_DOWN])
    swept_running(started_at=NOW, finished_at=None)
    assert conditions() == {"sweep_failing": "the broker did not answer"}


def test_stuck_runs_are_those_left_by_the_last_sweep():
    swept_running(counts={"within_grace": 5, "orphaned": 3, "inconclusive": 1}, acted=3)
    assert health_of(conf.adapters()["crawl_job"], NOW)[0].stuck_runs == 1
