"""Dry run: the same decisions, recorded as entries that were not applied, and nothing else."""

import pytest

from apps.sources.models import CrawlJob
from reaper.conf import settings as conf
from reaper.core.policy import Mode
from reaper.ledger.history import with_history
from reaper.models import LedgerEntry, MessageSighting
from reaper.reports.timeline import timeline_of
from reaper.sweeps.dry_run import record_new_entries
from tests.factories import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    lost_job,
    parent,
    running_job,
)
from tests.reaper.controls.operators import adapter, switched
from tests.reaper.sweeps.helpers import finalize_parents, host, sweep, sweep_everything, sweep_queued, world

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


def test_dry_run_decides_the_same_and_changes_nothing(broker):
    world()
    stuck = parent("completed", "failed")
    for kind in conf.adapters():
        switched(kind, mode=Mode.DRY_RUN)
    before, looks = host(), MessageSighting.objects.count()
    watched = [*sweep_everything(), finalize_parents()]
    assert host() == before
    assert broker.revokes() == []
    assert broker.ids() == []
    assert LedgerEntry.objects.applied().count() == 0
    assert [(row.acted, row.idle, row.errors) for row in watched] == [(0, True, [])] * 5
    assert MessageSighting.objects.count() >= looks
    would = {(row.kind, row.run_id, row.action, row.reason) for row in LedgerEntry.objects.dry_run()}
    for kind in conf.adapters():
        switched(kind, mode=Mode.ACT)
    acted = [*sweep_everything(), finalize_parents()]
    assert [row.counts for row in acted] == [row.counts for row in watched]
    assert would == {(row.kind, row.run_id, row.action, row.reason) for row in LedgerEntry.objects.applied()}
    assert ("source_result.parent", str(stuck.pk), "finalize", "children_ended") in would
    assert len(would) == 6


def test_dry_run_records_once_per_task_and_reason():
    job = running_job(2 * HOUR)
    switched(mode=Mode.DRY_RUN)
    for number in range(3):
        row = sweep(at=NOW + number * MINUTE)
    (seen,) = LedgerEntry.objects.all()
    assert seen.run_id == str(job.pk)
    assert seen.task_id == job.task_id
    assert seen.created_at == NOW
    assert seen.phase == "running"
    assert "rule timed_out" in seen.message
    assert row.summary == "dry_run: 1 scanned (timed_out 1)"
    CrawlJob.objects.update(task_id="another")
    sweep(at=NOW + HOUR)
    assert LedgerEntry.objects.dry_run().count() == 2


def test_dry_run_entry_describes_the_action_not_taken():
    job = running_job(2 * HOUR)
    switched(mode=Mode.DRY_RUN)
    sweep()
    entry = LedgerEntry.objects.get()
    assert str(entry) == f"would fail crawl_job:{job.pk} (timed_out)"
    assert entry.message.startswith("Would have been failed: ")
    assert not entry.owes_revoke
    texts = [event.text for event in timeline_of(adapter(), adapter().get(str(job.pk)))]
    assert entry.message in texts


def test_dry_run_leaves_budgets_and_backoff_as_they_are():
    job = lost_job(HOUR)
    switched(mode=Mode.DRY_RUN)
    sweep_queued()
    run = adapter().get(str(job.pk))
    assert with_history(adapter(), [run]) == [run]
    switched(mode=Mode.ACT)
    assert sweep_queued(at=NOW + SECOND).acted == 1


def test_entry_that_exists_is_not_recorded_again():
    """Not even where the database has no constraint for a part of the rows."""
    values = {"applied": False, "created_at": NOW, "kind": "crawl_job", "run_id": "7", "action": "fail"}
    entries = [LedgerEntry(**values, reason=reason) for reason in ("lost", "lost", "orphaned")]
    for _ in range(2):
        record_new_entries(adapter(), entries)
    assert sorted(LedgerEntry.objects.values_list("reason", flat=True)) == ["lost", "orphaned"]
