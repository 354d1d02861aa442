"""What the reaper did lately: counted by hour and by day, and the newest sweeps."""

from datetime import timedelta

import pytest

from reaper.core.reasons import ReasonFamily
from reaper.models import LedgerEntry, Sweep
from reaper.reports.activity import CENTURY, DAY, recent_sweeps, recovery_times, time_buckets
from tests.factories import HOUR, NOW, SECOND

pytestmark = pytest.mark.django_db


def recovered(ago=timedelta(0), **fields):
    values = {"kind": "crawl_job", "run_id": "7", "phase": "running", "action": "fail", "reason": "orphaned"}
    return LedgerEntry.objects.create(created_at=NOW - ago, **{**values, **fields})


def filled(length, number):
    """The buckets in which something was done, by their start."""
    buckets = time_buckets(["default"], NOW, length, number)
    assert len(buckets) == number
    return {bucket.starts_at: bucket for bucket in buckets if bucket.total}


def test_entries_are_counted_by_hour_and_family():
    recovered()
    recovered(reason="stranded")
    recovered(SECOND, reason="lost")
    recovered(23 * HOUR, reason="of a newer version")
    recovered(24 * HOUR)
    found = filled(HOUR, 24)
    assert {each.label: dict(each.counts) for each in found.values()} == {
        "13:00": {ReasonFamily.NONE: 1},
        "11:00": {ReasonFamily.MESSAGE_LOST: 1},
        "12:00": {ReasonFamily.WORKER_LOST: 2},
    }


def test_entries_are_counted_by_day_from_midnight():
    recovered()
    recovered(13 * HOUR)
    recovered(29 * DAY)
    recovered(31 * DAY)
    midnight = NOW - 12 * HOUR
    assert {start: each.total for start, each in filled(DAY, 30).items()} == {
        midnight - 29 * DAY: 1,
        midnight - DAY: 1,
        midnight: 1,
    }


def test_recovery_times_are_percentiles_by_family():
    for value in range(1, 101):
        recovered(unattended_seconds=value)
    recovered(reason="lost", unattended_seconds=1e300)
    recovered(unattended_seconds=999, actor="ada")
    recovered(2 * DAY, unattended_seconds=999)
    recovered(unattended_seconds=None)
    found = {each.family: each for each in recovery_times(["default"], NOW - DAY)}
    worker = found[ReasonFamily.WORKER_LOST]
    assert worker.runs == 100
    assert worker.median == 50 * SECOND
    assert worker.p95 == 95 * SECOND
    assert worker.slowest == 100 * SECOND
    assert found[ReasonFamily.MESSAGE_LOST].median == CENTURY


def test_manual_dispatch_is_not_counted():
    recovered(phase="queued", action="dispatch", reason="manual")
    assert filled(HOUR, 24) == {}


def test_recent_sweeps_are_those_with_an_effect_newest_first():
    values = {"kind": "crawl_job", "phase": "running", "finished_at": NOW}
    first = Sweep.objects.create(started_at=NOW - SECOND, **values)
    second = Sweep.objects.create(started_at=NOW, **values)
    Sweep.objects.create(started_at=NOW, idle=True, **values)
    assert recent_sweeps(["default"]) == [second, first]
