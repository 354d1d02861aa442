"""What the reaper did lately: counted by hour and by day, and the newest sweeps."""

from datetime import timedelta

import pytest

from reaper.models import LedgerEntry, Sweep
from reaper.reports.activity import DAY, recent_sweeps, time_buckets
from tests.worlds import HOUR, NOW, SECOND

pytestmark = pytest.mark.django_db


def recovered(ago=timedelta(0), **fields):
    values = {"kind": "crawl_job", "run_id": "7", "phase": "running", "action": "fail", "reason": "orphaned"}
    return LedgerEntry.objects.create(created_at=NOW - ago, **{**values, **fields})


def filled(length, number):
    """The buckets in which something was done, by their start."""
    buckets = time_buckets(["default"], NOW, length, number)
    assert len(buckets) == number
    return {bucket.starts_at: bucket for bucket in buckets if bucket.total}


def test_entries_are_counted_by_hour_with_the_slowest():
    recovered(unattended_seconds=7.0)
    recovered(SECOND, reason="lost", unattended_seconds=8.0)
    recovered(SECOND, reason="lost", unattended_seconds=9.0)
    recovered(23 * HOUR)
    recovered(24 * HOUR)
    found = filled(HOUR, 24)
    assert set(found) == {NOW - 23 * HOUR, NOW - HOUR, NOW}
    assert dict(found[NOW].counts) == {"orphaned": 1}
    assert found[NOW].slowest == 7.0
    assert dict(found[NOW - HOUR].counts) == {"lost": 2}
    assert found[NOW - HOUR].slowest == 9.0
    assert found[NOW - 23 * HOUR].slowest is None


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


def test_manual_dispatch_is_not_counted():
    recovered(phase="queued", action="dispatch", reason="manual")
    assert filled(HOUR, 24) == {}


def test_recent_sweeps_are_those_with_an_effect_newest_first():
    values = {"kind": "crawl_job", "phase": "running", "finished_at": NOW}
    first = Sweep.objects.create(started_at=NOW - SECOND, **values)
    second = Sweep.objects.create(started_at=NOW, **values)
    Sweep.objects.create(started_at=NOW, idle=True, **values)
    assert recent_sweeps(["default"]) == [second, first]
