"""Retention: what is pruned, and what is kept whatever its age."""

from datetime import timedelta

import pytest
from freezegun import freeze_time

from reaper import tasks
from reaper.ledger import retention
from reaper.models import LedgerEntry, RefusedWrite, Sweep
from tests.factories import NOW, SECOND, fresh, running_job

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]
DAY = timedelta(days=1)


def sweep_row(ago, kind="crawl_job", phase="running", **fields):
    fields = {"finished_at": NOW - ago, **fields}
    return Sweep.objects.create(kind=kind, phase=phase, started_at=NOW - ago, **fields)


def record_entry(ago, **fields):
    values = {"kind": "crawl_job", "run_id": "7", "phase": "running", "action": "fail", "reason": "timed_out"}
    return LedgerEntry.objects.create(created_at=NOW - ago, **{**values, **fields})


@freeze_time(NOW)
def test_pruning_deletes_old_history_and_keeps_young():
    record_entry(90 * DAY + SECOND)
    RefusedWrite.objects.create(created_at=NOW - 91 * DAY, kind="crawl_job", run_id="7", write="claim")
    sweep_row(91 * DAY)
    young = [
        record_entry(90 * DAY),
        RefusedWrite.objects.create(created_at=NOW - 90 * DAY, kind="crawl_job", run_id="7", write="claim"),
        sweep_row(90 * DAY),
    ]
    job = running_job(400 * DAY)
    tasks.prune_history()
    assert [LedgerEntry.objects.get(), RefusedWrite.objects.get(), Sweep.objects.get()] == young
    assert fresh(job).status == "running"


@freeze_time(NOW)
def test_history_retention_is_a_setting(limits):
    limits(HISTORY_RETENTION=DAY)
    record_entry(DAY + SECOND)
    kept = record_entry(DAY)
    tasks.prune_history()
    assert LedgerEntry.objects.get() == kept


@freeze_time(NOW)
def test_last_good_sweep_of_each_scope_is_never_pruned():
    sweep_row(400 * DAY)
    kept = {
        sweep_row(300 * DAY),
        sweep_row(300 * DAY, phase="queued"),
        sweep_row(400 * DAY, kind="source_result"),
        sweep_row(365 * DAY, phase="parents", idle=True),
    }
    sweep_row(200 * DAY, errors=[{"code": "broker_unavailable", "message": "publishing to the broker failed"}])
    sweep_row(200 * DAY, finished_at=None)
    tasks.prune_history()
    assert set(Sweep.objects.all()) == kept


@freeze_time(NOW)
def test_newer_good_sweep_lets_the_old_one_be_pruned():
    sweep_row(300 * DAY)
    young = sweep_row(DAY)
    tasks.prune_history()
    assert Sweep.objects.get() == young


@freeze_time(NOW)
def test_entry_outlives_its_pruned_sweep():
    old = sweep_row(91 * DAY)
    sweep_row(DAY)
    kept = record_entry(89 * DAY, sweep=old)
    tasks.prune_history()
    assert LedgerEntry.objects.get() == kept
    assert LedgerEntry.objects.get().sweep is None


@freeze_time(NOW)
def test_history_is_pruned_in_batches(monkeypatch, django_assert_num_queries):
    monkeypatch.setattr(retention, "PRUNE_BATCH", 2)
    for _ in range(5):
        record_entry(91 * DAY)
    with django_assert_num_queries(7):  # three batches to be found and deleted, and the look that finds none
        retention.prune(LedgerEntry.objects.all())
    assert LedgerEntry.objects.count() == 0


@freeze_time(NOW)
def test_dry_run_entries_are_pruned_by_age():
    record_entry(90 * DAY + SECOND, applied=False)
    kept = record_entry(90 * DAY, applied=False, run_id="8")
    tasks.prune_history()
    assert LedgerEntry.objects.get() == kept
