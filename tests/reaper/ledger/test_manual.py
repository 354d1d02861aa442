"""Entries of what people and hosts did, and rejected writes."""

import pytest

from apps.sources import claims, dispatch
from apps.sources.models import CrawlJob
from apps.sources.reaping import SourceResults
from reaper.core.facts import History
from reaper.ledger.manual import record_finalization
from reaper.models import LedgerEntry, RefusedWrite, Sweep
from tests.factories import NOW, queued_job, running_job
from tests.reaper.ledger.entries import entry, past

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("write", "given"),
    [("progress", [{}]), ("complete", [{}]), ("fail", ["It was slow.", "slow"]), ("release", [1])],
)
def test_refused_late_write_is_recorded(write, given):
    job = running_job()
    late = claims.Claim(model=CrawlJob, pk=job.pk, task_id="old", worker="celery@w1/abc")
    with pytest.raises(claims.ClaimLost):
        getattr(late, write)(*given)
    refused = RefusedWrite.objects.get()
    assert refused.kind == "crawl_job"
    assert refused.run_id == str(job.pk)
    assert refused.task_id == "old"
    assert refused.worker == "celery@w1/abc"
    assert refused.write == write


def test_manual_dispatch_is_recorded_with_its_run_or_not_at_all():
    job = queued_job()
    entry(run=str(job.pk))
    task_id = dispatch.assign_task_id(CrawlJob, job.pk, manual=True)
    noted = LedgerEntry.objects.latest("id")
    assert noted.run_id == str(job.pk)
    assert noted.action == "dispatch"
    assert noted.new_task_id == task_id
    assert noted.actor == "manual dispatch"
    assert past(str(job.pk)) == History()
    assert not noted.owes_revoke


def test_dispatch_by_the_host_itself_is_not_recorded():
    job = queued_job()
    dispatch.assign_task_id(CrawlJob, job.pk, manual=False)
    assert LedgerEntry.objects.count() == 0


@pytest.mark.parametrize(("actor", "reason"), [("", "children_ended"), ("ada", "manual")])
def test_completed_parent_is_recorded_under_its_own_kind(actor, reason):
    sweep = Sweep.objects.create(kind="source_result", phase="parents", started_at=NOW)
    record_finalization(SourceResults(), "7", NOW, sweep, actor)
    row = LedgerEntry.objects.get()
    assert row.kind == "source_result.parent"
    assert row.run_id == "7"
    assert row.action == "finalize"
    assert row.reason == reason
    assert row.sweep == sweep
    assert row.actor == actor
    assert past("7", SourceResults()) == History()
