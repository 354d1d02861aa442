"""Parents: completed with their last child, or by the sweep of parents."""

import pytest
from django.db import connection
from freezegun import freeze_time

from apps.sources.models import CrawlJobSourceResult
from apps.sources.reaping import CrawlJobs, SourceResults
from reaper.models import LedgerEntry, Sweep
from reaper.sweeps import parents
from tests.factories import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    child,
    fresh,
    parent,
    running_job,
)
from tests.reaper.sweeps.helpers import finalize_parents, on_postgresql, refuse_ledger_rows, sweep, within

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


def test_cancelled_parent_gets_its_totals_in_the_same_sweep():
    job = parent("completed", status="cancelled")
    CrawlJobSourceResult.objects.update(articles_new=7)
    child(job, "running")
    row = sweep("source_result")
    job = fresh(job)
    assert job.status == "cancelled"
    assert job.finalized_at == NOW
    assert job.new_articles == 7
    assert row.finalized == 1


def test_parent_is_completed_by_sweep_that_fails_its_last_children():
    job = parent("completed")
    for _ in range(2):
        child(job, "running", started_at=NOW - HOUR - SECOND)
    other = parent("running")
    child(other, "running", started_at=NOW - HOUR - SECOND)
    row = sweep("source_result")
    assert fresh(job).status == "completed"
    assert fresh(job).error_message == "2 sources failed"
    assert fresh(job).finalized_at is not None
    assert fresh(other).status == "running"
    assert fresh(other).finalized_at is None
    assert row.acted == 3
    assert row.finalized == 1
    assert row.errors == []
    assert LedgerEntry.objects.filter(kind="source_result.parent", action="finalize").get().run_id == str(job.pk)


def test_run_without_parent_completes_none():
    asked = []

    class Lonely(CrawlJobs):
        def finalize(self, parent):
            asked.append(parent)
            return False

    running_job(2 * HOUR)
    assert sweep(Lonely()).acted == 1
    assert asked == []


def test_parent_with_only_ended_children_is_completed():
    stuck, open_one = parent("completed", "failed"), parent("completed", "running")
    row = finalize_parents()
    assert fresh(stuck).status == "completed"
    assert fresh(stuck).finalized_at == NOW
    assert fresh(open_one).finalized_at is None
    assert row.phase == "parents"
    assert row.scanned == 1
    assert row.finalized == 1
    assert row.errors == []
    reaping = LedgerEntry.objects.get()
    assert reaping.kind == "source_result.parent"
    assert reaping.run_id == str(stuck.pk)
    assert reaping.action == "finalize"
    assert reaping.reason == "children_ended"
    assert reaping.actor == ""
    assert finalize_parents().finalized == 0
    assert LedgerEntry.objects.count() == 1


def test_parent_without_children_is_failed_after_queue_timeout(settings):
    settings.CRAWL_QUEUE_TIMEOUT = 15 * MINUTE
    childless = parent(created_at=NOW - 15 * MINUTE)
    for _ in range(2):
        row = finalize_parents()
        assert row.finalized == 0
        assert row.idle
        assert row.errors == []
    finalize_parents(at=NOW + SECOND)
    assert fresh(childless).status == "failed"
    assert fresh(childless).error_message == "no sources"


def test_parent_completed_concurrently_is_not_recorded_by_the_sweep():
    class Late(SourceResults):
        def finalize(self, parent):
            super().finalize(parent)
            return super().finalize(parent)

    parent("completed")
    with freeze_time(NOW):
        row = parents.finalize_parents(Late())
    assert row.scanned == 1
    assert row.finalized == 0
    assert row.idle
    assert Sweep.objects.get() == row
    assert LedgerEntry.objects.count() == 0


def test_parent_that_raises_does_not_stop_the_others():
    bad, good = sorted([parent("completed"), parent("completed")], key=lambda job: job.pk)

    class Fragile(SourceResults):
        def finalize(self, parent):
            if parent == str(bad.pk):
                raise OSError("boom")
            return super().finalize(parent)

    with freeze_time(NOW):
        row = parents.finalize_parents(Fragile())
    assert fresh(good).finalized_at == NOW
    assert row.error_messages == [f"parent {bad.pk} could not be finalized: OSError: boom"]


def test_parent_without_ledger_entry_is_not_completed():
    job = parent("completed")
    refuse_ledger_rows()
    row = finalize_parents()
    assert fresh(job).finalized_at is None
    assert row.finalized == 0
    assert str(job.pk) in row.error_messages[0]


@pytest.mark.django_db(transaction=True)
@on_postgresql
def test_locked_parent_does_not_delay_the_sweep(broker):
    job = parent()
    stuck = child(job, "running", started_at=NOW - 2 * HOUR)
    other = connection.copy()
    try:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute("SELECT 1 FROM crawl_jobs WHERE id = %s FOR UPDATE", [job.pk])
        with within(5):
            row = sweep("source_result")
        other.rollback()
    finally:
        other.close()
    assert fresh(stuck).status == "failed"
    assert "could not be finalized" in row.error_messages[0]
    assert finalize_parents().finalized == 1
