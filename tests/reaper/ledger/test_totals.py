"""The counters since the beginning: each act is counted once, when its sweep closes, and pruning takes nothing away."""

from datetime import timedelta

import pytest
from django.db import connection
from freezegun import freeze_time

from apps.sources.reaping import CrawlJobs
from reaper import tasks
from reaper.core.facts import Phase
from reaper.ledger import retention, totals
from reaper.models import CounterTotal, LedgerEntry, RefusedWrite, Sweep
from reaper.sweeps.sweep import sweep
from tests.factories import COMMITTED, HOUR, NOW, SECOND, run_concurrently, running_job

DAY = timedelta(days=1)

pytestmark = pytest.mark.django_db


def closed_sweep(ago=timedelta(0), **fields):
    fields = {"finished_at": NOW - ago, **fields}
    return Sweep.objects.create(kind="crawl_job", phase="running", started_at=NOW - ago, **fields)


def record_entry(ago=timedelta(0), seconds=7.5, sweep=None, **fields):
    """One entry of the ledger, of a closed sweep that is not counted yet unless another is given."""
    values = {"kind": "crawl_job", "run_id": "7", "phase": "running", "action": "fail", "reason": "orphaned", **fields}
    return LedgerEntry.objects.create(
        sweep=sweep or closed_sweep(ago), created_at=NOW - ago, unattended_seconds=seconds, **values
    )


def record_refusal(ago=timedelta(0), write="claim"):
    return RefusedWrite.objects.create(created_at=NOW - ago, kind="crawl_job", run_id="7", write=write)


def read_counts():
    return {tuple(filter(None, key)): tuple(value) for key, value in totals.all_time_counts("default").items()}


def count_all():
    """Add everything that is closed to the totals."""
    totals.count_closed_sweeps("default", NOW)


def counts():
    """All counts, once what is closed is counted."""
    count_all()
    return read_counts()


# --- what is counted ----------------------------------------------------------------------------------------------


def test_counts_without_rows_are_empty():
    assert counts() == {}


def test_counts_are_by_kind_label_and_reason():
    record_entry()
    record_entry()
    record_entry(kind="source_result", action="requeue", reason="lost", seconds=None)
    record_refusal()
    record_refusal(write="complete")
    assert counts() == {
        ("actions", "crawl_job", "fail", "orphaned"): (2, 0),
        ("actions", "source_result", "requeue", "lost"): (1, 0),
        ("recovery", "crawl_job", "10"): (2, 15),
        ("refused", "crawl_job", "claim"): (1, 0),
        ("refused", "crawl_job", "complete"): (1, 0),
    }


@pytest.mark.parametrize(
    ("seconds", "bound"), [(0, "5"), (5, "5"), (5.001, "10"), (86_400, "86400"), (86_400.1, "+Inf")]
)
def test_recovery_time_is_counted_under_its_upper_bound(seconds, bound):
    record_entry(seconds=seconds)
    assert counts()["recovery", "crawl_job", bound] == (1, seconds)


def test_manual_action_is_counted_but_is_no_recovery():
    record_entry(actor="ada")
    assert counts() == {("actions", "crawl_job", "fail", "orphaned"): (1, 0)}


def test_manual_dispatch_is_not_counted():
    LedgerEntry.objects.create(created_at=NOW, kind="crawl_job", run_id="7", action="dispatch", reason="manual")
    assert counts() == {}


def test_dry_run_entry_is_not_counted():
    record_entry(applied=False)
    assert counts() == {}


# --- when it is counted -------------------------------------------------------------------------------------------


@freeze_time(NOW)
@pytest.mark.usefixtures("broker", "limits")
def test_sweep_counts_its_own_actions_when_it_closes():
    running_job(2 * HOUR)
    row = sweep(CrawlJobs(), Phase.RUNNING)
    row.refresh_from_db()
    assert row.counted
    assert read_counts()["actions", "crawl_job", "fail", "timed_out"] == (1, 0)


@freeze_time(NOW)
@pytest.mark.usefixtures("broker", "limits")
def test_idle_sweep_counts_uncounted_entries():
    record_refusal()
    assert sweep(CrawlJobs(), Phase.RUNNING).idle
    assert read_counts() == {("refused", "crawl_job", "claim"): (1, 0)}
    assert RefusedWrite.objects.get().counted


@freeze_time(NOW)
@pytest.mark.usefixtures("broker", "limits")
def test_sweep_that_cannot_count_still_closes_and_next_one_counts(monkeypatch):
    def fail(*arguments):
        raise OSError("boom")

    running_job(2 * HOUR)
    with monkeypatch.context() as patch:
        patch.setattr(totals, "add", fail)
        row = sweep(CrawlJobs(), Phase.RUNNING)
    assert row.acted == 1
    assert row.errors == []
    assert read_counts() == {}
    sweep(CrawlJobs(), Phase.RUNNING)
    assert read_counts()["actions", "crawl_job", "fail", "timed_out"] == (1, 0)


def test_repeated_counting_changes_no_total():
    record_entry()
    record_refusal()
    before = counts()
    assert counts() == before


def test_unfinished_sweep_is_not_counted():
    record_entry(sweep=closed_sweep(finished_at=None))
    assert counts() == {}


@pytest.mark.parametrize(("ago", "is_counted"), [(HOUR, False), (HOUR + SECOND, True)])
def test_interrupted_sweep_is_counted_after_an_hour(ago, is_counted):
    record_entry(ago, sweep=closed_sweep(ago, finished_at=None))
    assert bool(counts()) == is_counted


@COMMITTED
@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")
def test_concurrently_closing_sweeps_count_each_row_once():
    for _ in range(50):
        record_entry(91 * DAY)
        record_refusal()
    run_concurrently(*[lambda: totals.count_closed_sweeps("default", NOW)] * 4)
    assert counts() == {
        ("actions", "crawl_job", "fail", "orphaned"): (50, 0),
        ("recovery", "crawl_job", "10"): (50, 375),
        ("refused", "crawl_job", "claim"): (50, 0),
    }


# --- pruning ------------------------------------------------------------------------------------------------------


@freeze_time(NOW)
def test_pruning_does_not_reduce_the_counts(monkeypatch):
    monkeypatch.setattr(retention, "PRUNE_BATCH", 2)
    for ago in (91 * DAY, 90 * DAY + SECOND, 95 * DAY, 90 * DAY, DAY):
        record_entry(ago, seconds=100)
        record_refusal(ago)
    before = counts()
    for _ in range(2):
        tasks.prune_history()
        assert counts() == before
    assert LedgerEntry.objects.count() == 2
    assert RefusedWrite.objects.count() == 2
    record_entry(seconds=100)
    assert counts()["recovery", "crawl_job", "120"] == (6, 600)


@freeze_time(NOW)
def test_pruning_counts_first_what_is_not_counted_yet():
    record_entry(91 * DAY)
    record_refusal(91 * DAY)
    tasks.prune_history()
    assert read_counts() == {
        ("actions", "crawl_job", "fail", "orphaned"): (1, 0),
        ("recovery", "crawl_job", "10"): (1, 7.5),
        ("refused", "crawl_job", "claim"): (1, 0),
    }
    assert not LedgerEntry.objects.exists()
    assert not RefusedWrite.objects.exists()


@freeze_time(NOW)
def test_pruning_that_fails_to_count_deletes_nothing(monkeypatch):
    record_entry(91 * DAY)

    def fail(*arguments):
        raise OSError("boom")

    monkeypatch.setattr(totals, "add", fail)
    with pytest.raises(OSError, match="boom"):
        tasks.prune_history()
    assert LedgerEntry.objects.count() == 1
    assert not Sweep.objects.get().counted
    assert not CounterTotal.objects.exists()
