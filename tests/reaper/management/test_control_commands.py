"""`manage.py reaper mode`, `pause`, `release`, `exempt`, `schedules` and `policy`: what they set and say."""

import pytest
from django.core.management import call_command
from django_celery_beat.models import PeriodicTask

from reaper import schedules
from reaper.conf import settings as conf
from reaper.controls.overrides import OVERRIDABLE, set_overrides
from reaper.models import KindControl
from tests.factories import HOUR, NOW, running_job
from tests.reaper.command import named, reaper, reaper_json

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker", "limits")]


def test_mode_is_set_in_users_name_and_shown_by_diagnose():
    code, out, err = reaper("mode", "crawl_job", "dry_run", "--user", "ann")
    assert code == 0
    assert out == "crawl_job: mode dry_run. Dry run: stuck runs are recorded and left unchanged.\n"
    assert err == ""
    assert KindControl.objects.get().actor == "ann"
    code, out, _ = reaper("diagnose")
    assert "crawl_job running: mode set to dry_run by ann" in out
    assert reaper("mode", "crawl_job", "settings")[1].startswith("crawl_job: default mode. Recovery is active.")
    assert "switched to" not in reaper("diagnose")[1]


def test_pause_and_release_print_their_end_and_end_with_0():
    out = reaper("pause", "crawl_job", "2h", "--user", "ann")[1]
    assert "paused until 2026-03-01 14:00:00 UTC. Recovery is off." in out
    assert "paused by ann until 2026-03-01 14:00:00 UTC" in reaper("diagnose")[1]
    assert "paused" not in reaper("pause", "crawl_job", "0")[1]
    assert "brake lifted until 2026-03-01 13:00:00 UTC" in reaper("release", "crawl_job", "--user", "bob")[1]
    assert "brake lifted by bob" in reaper("diagnose")[1]
    assert "brake lifted until 2026-03-01 12:15:00 UTC" in reaper("release", "crawl_job", "15m")[1]
    assert "lifted" not in reaper("release", "crawl_job", "0")[1]


def test_exempt_prints_expiry_and_ends_with_0():
    job = running_job(2 * HOUR)
    assert (
        reaper("exempt", named(job), "1d")[1]
        == f"{named(job)} is exempt from recovery until 2026-03-02 12:00:00 UTC.\n"
    )
    assert reaper("exempt", named(job))[1] == f"{named(job)} is exempt from recovery with no expiry.\n"
    code, out, _ = reaper("explain", named(job))
    assert code == 0
    assert "it is exempt from recovery" in out
    assert reaper("exempt", named(job), "0")[:2] == (0, f"{named(job)} is monitored again.\n")
    assert reaper("exempt", named(job), "0")[:2] == (1, f"{named(job)} was not exempt.\n")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["pause", "crawl_job", "soon"], "expected a duration, got 'soon': write 30s, 1h 30m or 7d, or 0 to end it"),
        (["pause", "crawl_job", "-1h"], "required: DURATION"),
        (["pause", "crawl_job"], "required: DURATION"),
        (["pause", "crawl_job", "367d"], "expected at most a year, got 367 d: "),
        (["release", "crawl_job", "999999999d"], "expected a duration of at most a hundred years"),
        (["mode", "crawl_job", "sleep"], "'sleep'"),
        (["mode", "crawl_jobs", "off"], "There is no kind 'crawl_jobs'"),
        (["exempt", "crawl_job"], "is not KIND:ID"),
        (["exempt", "crawl_job:7"], "There is no run 'crawl_job:7'"),
    ],
)
def test_invalid_control_is_refused_in_one_line(words, problem):
    code, out, err = reaper(*words)
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert problem in err
    assert not KindControl.objects.exists()


def test_schedules_are_listed_removed_and_created_again():
    call_command("migrate", verbosity=0)
    code, out, err = reaper("schedules")
    assert code == 0
    assert len(out.splitlines()) == 6
    assert err == ""
    assert "reaper.tasks.sweep_running: enabled, every 5 seconds" in out
    PeriodicTask.objects.filter(task="reaper.tasks.sweep_running").update(enabled=False)
    code, out, _ = reaper("schedules")
    assert code == 1
    assert "reaper.tasks.sweep_running: disabled, every 5 seconds" in out

    code, out, _ = reaper("schedules", "--remove")
    assert code == 0
    assert out.partition(".")[0] == "6 schedules were deleted"
    assert not PeriodicTask.objects.filter(task__startswith="reaper.").exists()
    assert reaper("schedules", "--remove")[1].startswith("0 schedules")
    code, out, _ = reaper("schedules")
    assert code == 1
    assert out.count("missing") == 6
    call_command("migrate", verbosity=0)
    assert PeriodicTask.objects.filter(task__startswith="reaper.").count() == 6


def test_policy_json_has_every_field_with_its_origin():
    set_overrides(conf.adapters()["crawl_job"], "ada", NOW, {"run_timeout": 2 * HOUR})
    code, found = reaper_json("policy", "crawl_job")
    assert code == 0
    assert found["policy"]["run_timeout"] == {"value": 7200.0, "source": "override by ada on 2026-03-01"}
    assert set(found["policy"]) >= set(OVERRIDABLE)


def test_schedules_json_has_a_line_each():
    schedules.create_missing("default")
    code, found = reaper_json("schedules")
    assert code == 0
    assert len(found["message"]) == 6
