"""The counts since the beginning: pruning takes nothing from them, however often and at whatever time it runs."""

from datetime import timedelta

import pytest
from django.db import connection
from freezegun import freeze_time

from reaper import tasks
from reaper.ledger import totals
from reaper.models import CounterTotal, LedgerEntry, RefusedWrite
from tests.worlds import COMMITTED, NOW, SECOND, at_once

DAY = timedelta(days=1)

pytestmark = pytest.mark.django_db


def reaping(ago=timedelta(0), seconds=7.5, **fields):
    values = {"kind": "crawl_job", "run_id": "7", "phase": "running", "action": "fail", "reason": "orphaned"}
    return LedgerEntry.objects.create(created_at=NOW - ago, unattended_seconds=seconds, **{**values, **fields})


def refusal(ago=timedelta(0), write="claim"):
    return RefusedWrite.objects.create(created_at=NOW - ago, kind="crawl_job", run_id="7", write=write)


def counts():
    return {tuple(key): tuple(value) for key, value in totals.all_time_counts("default").items()}


def test_without_any_rows_nothing_is_counted():
    assert counts() == {}


def test_everything_is_counted_by_kind_and_label():
    reaping()
    reaping()
    reaping(kind="source_result", action="requeue", reason="lost", seconds=None)
    refusal()
    refusal(write="complete")
    assert counts() == {
        ("reapings", "crawl_job", "fail orphaned"): (2, 0),
        ("reapings", "source_result", "requeue lost"): (1, 0),
        ("recovery", "crawl_job", "10"): (2, 15),
        ("refused", "crawl_job", "claim"): (1, 0),
        ("refused", "crawl_job", "complete"): (1, 0),
    }


@pytest.mark.parametrize(
    ("seconds", "bound"), [(0, "5"), (5, "5"), (5.001, "10"), (86_400, "86400"), (86_400.1, "+Inf")]
)
def test_a_time_is_counted_under_its_bound(seconds, bound):
    reaping(seconds=seconds)
    assert counts()["recovery", "crawl_job", bound] == (1, seconds)


def test_what_a_person_did_is_no_recovery_and_a_dispatch_by_hand_is_no_act():
    reaping(actor="ada")
    reaping(action="dispatch", reason="manual", actor="by hand")
    assert counts() == {("reapings", "crawl_job", "fail orphaned"): (1, 0)}


@freeze_time(NOW)
def test_pruning_takes_nothing_from_the_counts(monkeypatch):
    monkeypatch.setattr(tasks, "PRUNE_BATCH", 2)
    for ago in (91 * DAY, 90 * DAY + SECOND, 95 * DAY, 90 * DAY, DAY):
        reaping(ago, seconds=100)
        refusal(ago)
    before = counts()
    for _ in range(2):
        tasks.prune_history()
        assert counts() == before
    assert (LedgerEntry.objects.count(), RefusedWrite.objects.count()) == (2, 2)
    reaping(seconds=100)
    assert counts()["recovery", "crawl_job", "120"] == (6, 600)


@freeze_time(NOW)
def test_a_prune_that_fails_has_counted_nothing(monkeypatch):
    reaping(91 * DAY)
    before = counts()

    def fail(*arguments):
        raise OSError("boom")

    monkeypatch.setattr(totals, "add", fail)
    with pytest.raises(OSError, match="boom"):
        tasks.prune_history()
    assert (counts(), LedgerEntry.objects.count(), CounterTotal.objects.count()) == (before, 1, 0)


@COMMITTED
@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")
def test_two_that_prune_at_once_count_each_row_once():
    for _ in range(200):
        reaping(91 * DAY)
    before = counts()

    def prune():
        while totals.prune(LedgerEntry.objects.filter(created_at__lt=NOW - 90 * DAY), 10):
            pass

    at_once(*[prune] * 4)
    assert (counts(), LedgerEntry.objects.count()) == (before, 0)
