"""How the reaper reads crawl runs: which rows are runs, in which phase, and which parents are stuck."""

import pytest
from freezegun import freeze_time

from apps.sources import claims, dispatch
from apps.sources.reaping import CrawlJobs, SourceResults
from reaper.adapters import Message
from reaper.conf import settings as conf
from reaper.core.facts import Phase
from reaper.models import LedgerEntry, RefusedWrite
from reaper.sweeps import parents
from reaper.sweeps.sweep import sweep as sweep_phase
from tests.factories import COMMITTED, NOW, SECOND, child, fresh, parent, queued_job, running_job, sent_child, source

pytestmark = COMMITTED

LONG = conf.Policy().run_timeout + SECOND


def seen(adapter, phase):
    return {run.pk for page in adapter.iter_unfinished(phase) for run in page}


def keys(*rows):
    return {str(row.pk) for row in rows}


def sweep(kind, phase, at=NOW):
    with freeze_time(at):
        return sweep_phase(conf.adapters()[kind], phase)


def finalize_parents(at=NOW):
    with freeze_time(at):
        return parents.finalize_parents(conf.adapters()["source_result"])


# --- which rows are runs ------------------------------------------------------------------------------------------


def test_both_adapters_are_registered_and_pass_their_checks():
    assert {kind: type(adapter) for kind, adapter in conf.adapters().items()} == {
        "crawl_job": CrawlJobs,
        "source_result": SourceResults,
    }
    assert [adapter.check() for adapter in conf.adapters().values()] == [[], []]


@pytest.mark.parametrize(
    ("adapter", "status", "phase"),
    [
        (CrawlJobs, "pending", Phase.QUEUED),
        (CrawlJobs, "running", Phase.RUNNING),
        (CrawlJobs, "completed", Phase.FINISHED),
        (CrawlJobs, "failed", Phase.FINISHED),
        (CrawlJobs, "cancelled", Phase.FINISHED),
        (CrawlJobs, "paused", Phase.UNKNOWN),
        (SourceResults, "pending", Phase.QUEUED),
        (SourceResults, "running", Phase.RUNNING),
        (SourceResults, "completed", Phase.FINISHED),
        (SourceResults, "failed", Phase.FINISHED),
        (SourceResults, "skipped", Phase.FINISHED),
        (SourceResults, "paused", Phase.UNKNOWN),
        (SourceResults, "cancelled", Phase.UNKNOWN),
    ],
)
def test_every_host_status_maps_to_its_phase(adapter, status, phase):
    assert adapter().phase_of(status) is phase


@pytest.mark.parametrize(("status", "phase"), [("pending", Phase.QUEUED), ("running", Phase.RUNNING)])
def test_job_of_one_source_is_a_run_and_parent_is_not(status, phase):
    job = queued_job(status=status)
    parent("pending", "running", status=status)
    parent(status=status)
    of_one_source = parent(status=status, source=source())
    with_children = parent("completed", status=status, source=source())
    assert seen(CrawlJobs(), phase) == keys(job, of_one_source)
    assert CrawlJobs().get(str(with_children.pk)) is None
    assert CrawlJobs().get(str(job.pk)).status == status


@pytest.mark.parametrize(("status", "phase"), [("pending", Phase.QUEUED), ("running", Phase.RUNNING)])
def test_unfinished_child_is_a_run(status, phase):
    job = parent(status, "completed", "failed", "skipped")
    assert seen(SourceResults(), phase) == keys(*job.source_results.filter(status=status))


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "paused"])
def test_ended_or_paused_run_is_not_unfinished(status):
    queued_job(status=status)
    assert seen(CrawlJobs(), Phase.QUEUED) == seen(CrawlJobs(), Phase.RUNNING) == set()


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_child_of_ended_parent_has_parent_ended(status):
    job = parent("running", status=status)
    (run,) = next(SourceResults().iter_unfinished(Phase.RUNNING))
    assert run.parent == str(job.pk)
    assert run.parent_ended is True


@pytest.mark.parametrize("status", ["pending", "running", "paused"])
def test_child_of_open_parent_has_parent_not_ended(status):
    parent("running", status=status)
    (run,) = next(SourceResults().iter_unfinished(Phase.RUNNING))
    assert run.parent_ended is False


def test_facts_of_run_are_those_of_its_row():
    job = running_job(SECOND, heartbeat_at=NOW)
    run = CrawlJobs().get(str(job.pk))
    assert run.kind == "crawl_job"
    assert run.pk == str(job.pk)
    assert run.status == "running"
    assert run.task_id == job.task_id
    assert run.worker == "celery@w1/abc"
    assert run.started_at == job.started_at
    assert run.progress_at == NOW
    assert run.created_at == job.created_at
    assert run.queued_at == job.queued_at
    assert run.parent is None


@pytest.mark.parametrize("pk", ["no uuid", "", "00000000-0000-4000-8000-000000000000"])
def test_unknown_key_is_neither_run_nor_parent(pk):
    assert CrawlJobs().get(pk) is None
    assert SourceResults().get(pk) is None
    assert SourceResults().finalize(pk) is False


# --- messages -----------------------------------------------------------------------------------------------------


def test_requeue_sends_what_dispatch_would_send(broker):
    job, row = queued_job(), sent_child()
    for kind, each in (("crawl_job", job), ("source_result", row)):
        broker.flush()
        dispatch.dispatch_run(type(each), each.pk)
        (sent,) = broker.waiting()
        adapter = conf.adapters()[kind]
        assert adapter.messages([adapter.get(str(each.pk))]) == {str(each.pk): Message(sent.args, sent.kwargs)}
        assert adapter.task == dispatch.TASK


def test_deleted_run_has_no_message():
    job = queued_job()
    adapter = CrawlJobs()
    run = adapter.get(str(job.pk))
    job.delete()
    assert adapter.messages([run]) == {}


# --- parents ------------------------------------------------------------------------------------------------------


def worlds_of_parents():
    """Parents by their fate: the stuck ones, and those that are none of the reaper's business."""
    stuck = [
        parent("completed"),
        parent("failed", "skipped", status="pending"),
        parent("completed", source=source()),
        parent("completed", status="cancelled"),
        parent("skipped", status="paused"),
        parent(status="pending"),
        parent(),
    ]
    left = [
        parent("completed", "running"),
        parent("completed", "pending"),
        parent("completed", "from-a-newer-version"),
        parent("completed", finalized_at=NOW),
        parent("completed", status="completed"),
        parent("failed", status="failed"),
        parent("running", status="cancelled"),
        running_job(),
        queued_job(),
        queued_job(status="cancelled"),
    ]
    return stuck, left


def test_finalizable_parents_have_only_ended_children():
    stuck, _ = worlds_of_parents()
    found = list(SourceResults().iter_finalizable_parents())
    assert sorted(found) == sorted(keys(*stuck))


def test_finalizing_all_finalizable_parents_touches_no_others():
    stuck, left = worlds_of_parents()
    before = [type(row).objects.filter(pk=row.pk).values().get() for row in left]
    row = finalize_parents()
    assert row.finalized == 5
    assert row.errors == []
    assert [fresh(each).status for each in stuck] == [
        *("completed", "failed", "completed", "cancelled", "paused", "pending", "running"),
    ]
    assert [type(row).objects.filter(pk=row.pk).values().get() for row in left] == before
    assert set(LedgerEntry.objects.values_list("run_id", flat=True)) == keys(*stuck[:5])
    assert finalize_parents(NOW + SECOND).finalized == 0


def test_parent_without_children_fails_after_queue_timeout(settings):
    job = parent(status="pending")
    assert finalize_parents(NOW + settings.CRAWL_QUEUE_TIMEOUT).finalized == 0
    assert finalize_parents(NOW + settings.CRAWL_QUEUE_TIMEOUT + SECOND).finalized == 1
    assert fresh(job).status == "failed"
    assert fresh(job).error_message == "no sources"


# --- whole sweeps -------------------------------------------------------------------------------------------------


def test_stuck_child_is_failed_and_parent_finalized_in_one_sweep(broker):
    job = parent("completed")
    stuck = child(job, "running", started_at=NOW - LONG)
    row = sweep("source_result", Phase.RUNNING)
    assert fresh(stuck).status == "failed"
    assert fresh(stuck).error_code == "timed_out"
    assert fresh(job).status == "completed"
    assert fresh(job).error_message == "1 sources failed"
    assert row.acted == 1
    assert row.finalized == 1
    assert row.errors == []


def test_stuck_child_with_running_sibling_leaves_parent_open(broker):
    job = parent("running")
    child(job, "running", started_at=NOW - LONG)
    assert sweep("source_result", Phase.RUNNING).finalized == 0
    assert fresh(job).status == "running"


@pytest.mark.parametrize(("status", "phase"), [("pending", Phase.QUEUED), ("running", Phase.RUNNING)])
def test_child_of_ended_parent_is_skipped_and_task_revoked(broker, status, phase):
    job = parent(status, status="cancelled")
    (row,) = job.source_results.all()
    with broker.revokes() as next_revoked:
        sweep("source_result", phase)
        assert next_revoked() == [row.task_id]
    after = fresh(row)
    assert after.status == "skipped"
    assert after.error_code == "parent_ended"
    assert after.completed_at == NOW
    assert fresh(job).status == "cancelled"
    assert broker.ids() == []


def test_never_sent_child_is_sent(broker, settings):
    job = parent(status="pending")
    unsent, young = sent_child(job, task_id=""), sent_child(job, task_id="", queued_at=NOW + SECOND)
    sweep("source_result", Phase.QUEUED, NOW + conf.Policy().lost_grace + SECOND)
    assert broker.ids() == [fresh(unsent).task_id]
    assert fresh(young).task_id == ""


def test_paused_job_is_never_touched(broker):
    job, waiting = running_job(LONG, status="paused"), queued_job(LONG, status="paused")
    for phase in (Phase.QUEUED, Phase.RUNNING):
        assert sweep("crawl_job", phase).acted == 0
    assert fresh(job).status == "paused"
    assert fresh(waiting).status == "paused"


# --- announcements ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "kind"), [(queued_job, "crawl_job"), (sent_child, "source_result")])
def test_manual_dispatch_and_refused_claim_are_recorded_under_kind(broker, make, kind):
    row = make()
    with freeze_time(NOW):
        dispatch.dispatch_run(type(row), row.pk, manual=True)
        with pytest.raises(claims.ClaimLost):
            claims.claim(type(row), row.pk, row.task_id, "celery@w9/xyz")
    (reaping,) = LedgerEntry.objects.all()
    assert reaping.kind == kind
    assert reaping.run_id == str(row.pk)
    assert reaping.action == "dispatch"
    assert reaping.created_at == NOW
    assert reaping.reason == "manual"
    assert reaping.actor == "manual dispatch"
    assert reaping.new_task_id == fresh(row).task_id
    (refused,) = RefusedWrite.objects.all()
    assert refused.kind == kind
    assert refused.run_id == str(row.pk)
    assert refused.created_at == NOW
    assert refused.write == "claim"
    assert refused.task_id == row.task_id
    assert refused.worker == "celery@w9/xyz"
