"""How operators switch a kind: its mode, a pause, a release of the brake."""

from functools import partial
from itertools import pairwise

import pytest
from django.db import connection

from reaper.controls.modes import parse_control_duration, set_controls
from reaper.core.policy import Mode
from reaper.exceptions import InvalidValue
from reaper.models import KindControl
from tests.factories import (
    COMMITTED,
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    run_concurrently,
)
from tests.reaper.controls.operators import ADA, adapter, state, switched

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


def test_mode_is_that_of_settings_until_switched(limits):
    assert state()[:3] == (Mode.ACT, None, False)
    limits(MODE="dry_run", KINDS={"source_result": {"MODE": "off"}})
    assert [state(kind=kind).mode for kind in ("crawl_job", "source_result")] == [Mode.DRY_RUN, Mode.OFF]
    switched(mode=Mode.ACT)
    assert [state(kind=kind).mode for kind in ("crawl_job", "source_result")] == [Mode.ACT, Mode.OFF]
    switched(mode="")
    assert state().mode == Mode.DRY_RUN


def test_switching_one_control_keeps_others_and_history():
    switched(mode=Mode.DRY_RUN)
    set_controls(adapter(), "bob", NOW, released_until=NOW + HOUR)
    assert state()[:3] == (Mode.DRY_RUN, None, True)
    assert state().actor == "bob"
    assert state().mode_is_override
    assert state(kind="source_result").actor == ""
    assert [(row.actor, row.summary) for row in KindControl.objects.order_by("id")] == [
        ("ada", "mode dry_run"),
        ("bob", "mode dry_run, brake lifted until 2026-03-01 13:00:00 UTC"),
    ]


@COMMITTED
@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")
def test_concurrent_switches_keep_each_others_changes():
    switched()

    def many(by, changes):
        for change in changes:
            set_controls(adapter(), by, NOW, **change)

    modes = [{"mode": (Mode.ACT, Mode.DRY_RUN)[number % 2]} for number in range(30)]
    pauses = [{"paused_until": NOW + number * HOUR} for number in range(30)]
    run_concurrently(partial(many, "bob", modes), partial(many, "eve", pauses))
    rows = list(KindControl.objects.order_by("id"))
    assert len(rows) == 61
    for before, after in pairwise(rows):
        kept = "paused_until" if after.actor == "bob" else "mode"
        assert getattr(after, kept) == getattr(before, kept)


def test_pause_ends_at_its_deadline():
    switched(paused_until=NOW + HOUR)
    assert state(NOW + HOUR - SECOND)[:3] == (Mode.OFF, NOW + HOUR, False)
    assert state(NOW + HOUR)[:3] == (Mode.ACT, None, False)


def test_release_ends_at_its_deadline():
    switched(released_until=NOW + HOUR)
    assert [state(NOW + HOUR - SECOND).released, state(NOW + HOUR).released] == [True, False]


def test_mode_of_another_version_is_ignored(limits):
    limits(MODE="dry_run")
    KindControl.objects.create(kind="crawl_job", created_at=NOW, actor=ADA, mode="dream")
    assert state().mode == Mode.DRY_RUN


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("30s", 30 * SECOND),
        ("90", 90 * SECOND),
        ("15min", 15 * MINUTE),
        ("1h 30m", 90 * MINUTE),
        ("1.5h", 90 * MINUTE),
        ("2 h", 2 * HOUR),
        ("366d", 366 * 24 * HOUR),
        ("0", 0 * SECOND),
        ("off", 0 * SECOND),
    ],
)
def test_control_duration_accepts_the_texts_of_the_settings(text, duration):
    assert parse_control_duration(text) == duration


@pytest.mark.parametrize("text", ["", "soon", "-5", "367d", "0.0000001"])
def test_invalid_control_duration_is_refused(text):
    with pytest.raises(InvalidValue, match="expected"):
        parse_control_duration(text)
