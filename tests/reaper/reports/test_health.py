"""How the sweeps are doing: at each limit and one second beyond it."""

import pytest
from django_celery_beat.models import PeriodicTask

from reaper.conf import settings as conf
from reaper.controls import modes as switches
from reaper.models import Sweep
from reaper.reports.health import health_of
from tests.factories import HOUR, MINUTE, NOW, SECOND, swept

# With Beat's tables: the schedules are there as migrate has made them.
HELD = {"code": "brake_engaged", "message": "30 of 40"}
BROKER_DOWN = {"code": "broker_unavailable", "message": "the broker did not answer"}

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("limits")]


def conditions(at=NOW, phase="running", kind="crawl_job"):
    """What is worth a warning of one kind and phase."""
    return next(each.conditions for each in health_of(conf.adapters()[kind], at) if each.phase == phase)


def notes(at=NOW):
    return next(each.notes for each in health_of(conf.adapters()["crawl_job"], at) if each.phase == "running")


def swept_running(**fields):
    values = {"kind": "crawl_job", "phase": "running", "started_at": NOW, "finished_at": NOW, **fields}
    return Sweep.objects.create(**values)


def test_where_all_is_swept_in_time_nothing_is_worth_a_warning():
    swept()
    assert [each.conditions for adapter in conf.adapters().values() for each in health_of(adapter, NOW)] == [{}] * 5


def test_what_never_swept_is_overdue():
    assert conditions() == {"sweep_overdue": "never swept"}


@pytest.mark.parametrize(("phase", "every"), [("running", 5), ("queued", 30), ("parents", 60)])
def test_a_sweep_is_overdue_after_three_of_its_intervals(phase, every):
    swept()
    assert conditions(NOW + 3 * every * SECOND, phase, "source_result") == {}
    assert set(conditions(NOW + (3 * every + 1) * SECOND, phase, "source_result")) == {"sweep_overdue"}


def test_an_admins_interval_counts():
    swept()
    row = PeriodicTask.objects.get(task="reaper.tasks.sweep_running")
    row.interval, _ = type(row.interval).objects.get_or_create(every=10, period="minutes")
    row.save()
    assert conditions(NOW + 30 * MINUTE) == {}
    assert conditions(NOW + 30 * MINUTE + SECOND) == {"sweep_overdue": "the last sweep ended 30 min 1 s ago"}


def test_without_a_schedule_a_sweep_every_minute_is_in_time():
    PeriodicTask.objects.filter(task="reaper.tasks.sweep_running").delete()
    swept()
    assert (conditions(NOW + 3 * MINUTE), notes(NOW + 3 * MINUTE)) == ({}, ["no schedule"])
    assert set(conditions(NOW + 3 * MINUTE + SECOND)) == {"sweep_overdue"}


def test_a_schedule_that_is_switched_off_is_told_instead_of_what_follows_from_it():
    PeriodicTask.objects.filter(task="reaper.tasks.sweep_running").update(enabled=False)
    assert conditions() == {"switched_off": "its schedule is disabled"}


def test_a_kind_that_is_switched_off_is_told_with_who_did_it():
    swept()
    switches.set_controls(conf.adapters()["crawl_job"], "ada", NOW, mode="off")
    assert conditions() == {"switched_off": "mode set to off by ada"}
    assert conditions(kind="source_result") == {}


def test_a_pause_is_told_until_it_ends():
    swept(NOW + HOUR)
    switches.set_controls(conf.adapters()["crawl_job"], "ada", NOW, paused_until=NOW + HOUR)
    said = {"switched_off": "paused by ada until 2026-03-01 13:00:00 UTC"}
    assert (conditions(NOW + HOUR - SECOND), conditions(NOW + HOUR)) == (said, {})


def test_to_observe_is_a_note_and_no_warning():
    swept()
    switches.set_controls(conf.adapters()["crawl_job"], "ada", NOW, mode="dry_run")
    assert (conditions(), notes()) == ({}, ["mode set to dry_run by ada"])


def test_a_released_brake_is_a_note():
    swept()
    switches.set_controls(conf.adapters()["crawl_job"], "ada", NOW, released_until=NOW + HOUR)
    assert (conditions(), notes()) == ({}, ["brake overridden by ada"])


def test_what_the_last_sweep_told_is_told_apart():
    swept()
    swept_running(errors=[HELD, BROKER_DOWN])
    assert conditions() == {"brake_engaged": "30 of 40", "sweep_failing": "the broker did not answer"}


def test_a_sweep_that_fails_or_is_held_is_not_good_and_not_overdue():
    for error in (HELD, BROKER_DOWN):
        Sweep.objects.all().delete()
        swept_running(errors=[error])
        assert "sweep_overdue" not in conditions(NOW + 15 * SECOND)
        assert "sweep_overdue" in conditions(NOW + 16 * SECOND)
        assert health_of(conf.adapters()["crawl_job"], NOW)[0].since_success is None


def test_what_an_earlier_sweep_told_is_over():
    swept_running(started_at=NOW - SECOND, errors=[BROKER_DOWN])
    swept()
    assert conditions() == {}


def test_a_sweep_that_was_cut_off_is_told_after_a_minute():
    swept_running(started_at=NOW, finished_at=None)
    said = "the sweep that started at 12:00:00 has not ended"
    assert (conditions(NOW + MINUTE).get("sweep_failing"), notes(NOW + MINUTE)) == (None, [said])
    assert conditions(NOW + MINUTE + SECOND)["sweep_failing"] == said


def test_sweep_under_way_does_not_hide_the_errors_of_the_one_before():
    swept_running(started_at=NOW - SECOND, finished_at=NOW - SECOND, errors=[BROKER_DOWN])
    swept_running(started_at=NOW, finished_at=None)
    assert conditions() == {"sweep_failing": "the broker did not answer"}


def test_stuck_runs_are_those_that_the_last_sweep_left():
    swept_running(counts={"within_grace": 5, "orphaned": 3, "inconclusive": 1}, acted=3)
    assert health_of(conf.adapters()["crawl_job"], NOW)[0].stuck_runs == 1
