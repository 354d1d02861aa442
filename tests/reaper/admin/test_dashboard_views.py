"""The overview's buttons: a kind's mode, pause and brake, and the schedules."""

import pytest
from django.contrib.admin.models import LogEntry
from django_celery_beat.models import PeriodicTask

from reaper.conf import settings as conf
from reaper.controls.modes import state_of
from reaper.core.policy import Mode
from reaper.models import KindControl
from tests.factories import (
    HOUR,
    NOW,
)
from tests.reaper.admin.pages import (
    beat_row,
    press,
)

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("broker", "limits"),
    pytest.mark.filterwarnings("ignore:No directory at:UserWarning"),
]


@pytest.mark.parametrize(
    ("control", "state"),
    [
        ("dry_run", (Mode.DRY_RUN, None, False)),
        ("off", (Mode.OFF, None, False)),
        ("act", (Mode.ACT, None, False)),
        ("pause", (Mode.OFF, NOW + HOUR, False)),
        ("lift_brake", (Mode.ACT, None, True)),
        ("resume", (Mode.ACT, None, False)),
    ],
)
def test_control_button_sets_state_in_users_name(ada, control, state):
    assert "Recovery of crawl_job: " in press(ada, "control", kind="crawl_job", control=control)
    assert state_of(conf.adapters()["crawl_job"], NOW)[:3] == state
    assert KindControl.objects.get().actor == "ada"


def test_every_control_can_be_ended(ada):
    for control in ("dry_run", "pause", "lift_brake", "resume", "restore_brake", "settings"):
        press(ada, "control", kind="crawl_job", control=control)
    assert state_of(conf.adapters()["crawl_job"], NOW)[:4] == (Mode.ACT, None, False, "ada")


@pytest.mark.parametrize("data", [{"kind": "crawl_job", "control": "fly"}, {"kind": "nobody", "control": "off"}, {}])
def test_unknown_control_or_kind_is_not_found(ada, data):
    assert press(ada, "control", **data) == 404
    assert not KindControl.objects.exists()


@pytest.mark.usefixtures("schedules")
def test_schedule_button_disables_and_enables_and_logs_it(ada):
    row = beat_row()
    for enabled in (False, False, True):
        outcome = "enabled" if enabled else "disabled"
        assert f"is {outcome}" in press(ada, "schedule", schedule=row.pk, enabled="01"[enabled])
        assert beat_row().enabled is enabled
    history = LogEntry.objects.filter(object_id=str(row.pk)).order_by("pk")
    assert [(each.user.username, each.change_message) for each in history] == [
        ("ada", "disabled in the reaper's dashboard"), ("ada", "enabled in the reaper's dashboard"),
    ]  # fmt: skip


@pytest.mark.usefixtures("schedules")
def test_schedule_button_keeps_beats_own_columns(ada):
    row = beat_row()
    PeriodicTask.objects.filter(pk=row.pk).update(total_run_count=7, last_run_at=NOW)
    press(ada, "schedule", schedule=row.pk, enabled="0")
    assert beat_row().total_run_count == 7
    assert beat_row().last_run_at == NOW


@pytest.mark.parametrize("schedule", ["", "x", "-1", "9" * 30, "0"])
def test_schedule_button_with_invalid_key_is_not_found(ada, schedule):
    assert press(ada, "schedule", schedule=schedule, enabled="0") == 404


@pytest.mark.usefixtures("schedules")
def test_schedule_of_another_app_is_not_found(ada):
    other = PeriodicTask.objects.create(name="backup", task="backup", interval=beat_row().interval)
    assert press(ada, "schedule", schedule=other.pk, enabled="0") == 404
    assert PeriodicTask.objects.get(name="backup").enabled
