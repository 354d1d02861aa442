"""All workers together: who is a witness, and what an incomplete or silent fleet protects."""

import pytest
from freezegun import freeze_time

from reaper.broker.connection import Broker
from reaper.broker.queues import resolve_queue
from reaper.conf import settings as conf
from reaper.core.facts import Phase
from reaper.evidence.collector import EvidenceCollector
from reaper.evidence.fleet import load_fleet
from reaper.models import WorkerHeartbeat
from reaper.workers.timing import DEAD_AFTER, MAX_HEARTBEAT_AGE
from tests.factories import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    child,
    executing,
    fresh,
    lost_job,
    orphan,
    parent,
    report,
    running_job,
    witness,
)
from tests.reaper.evidence.collecting import WITNESS, gather, sweep

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


@pytest.mark.parametrize(
    ("reporting_for", "silent_s", "is_witness"),
    [
        (DEAD_AFTER, 0, True),
        (DEAD_AFTER - SECOND, 0, False),
        (HOUR, 5, True),
        (HOUR, 6, False),
    ],
)
def test_witness_needs_12s_of_heartbeats_and_a_fresh_one(reporting_for, silent_s, is_witness):
    job = orphan()
    WorkerHeartbeat.objects.filter(hostname="celery@crawl-witness").update(
        since=NOW - reporting_for, seen_at=NOW - silent_s * SECOND
    )
    assert gather(job)[0].witness == (WITNESS if is_witness else "")
    assert bool(sweep(Phase.RUNNING).acted) is is_witness


@pytest.mark.parametrize("queues", [["default"], ["reaper"], []])
def test_worker_of_another_queue_is_no_witness(queues):
    job = orphan()
    WorkerHeartbeat.objects.filter(hostname="celery@crawl-witness").update(queues=queues)
    assert gather(job)[0].witness == ""
    assert sweep(Phase.RUNNING).acted == 0


def test_fleet_that_falls_silent_together_is_not_judged_dead():
    """A partition: their last heartbeats are up to `MAX_HEARTBEAT_AGE` apart."""
    job = running_job(MINUTE)
    last = MAX_HEARTBEAT_AGE
    executing(job, since=MINUTE)
    witness(now=NOW + last)
    for seconds in range(12, 19):
        assert sweep(Phase.RUNNING, NOW + seconds * SECOND).acted == 0
    assert fresh(job).status == "running"


@pytest.mark.parametrize(
    "spoilt", [{"complete": False}, {"active": ["no", "dict"]}, {"held": [7]}, {"active": {"t1": None}}], ids=str
)
def test_incomplete_heartbeat_of_a_live_worker_protects_every_run(spoilt, answers):
    jobs = orphan(), lost_job()
    report("celery@other/abc", **spoilt)
    for found in gather(*jobs):
        assert found.absent is False
        assert found.uncertainties == ("the heartbeat of celery@other/abc is incomplete",)
    assert sweep(Phase.RUNNING).acted == sweep(Phase.QUEUED).acted == 0
    assert answers.calls == []


def test_incomplete_heartbeat_of_a_dead_worker_protects_no_run(answers):
    job = orphan()
    report("celery@dead/def", silent=MINUTE, complete=False)
    assert gather(job)[0].absent is True


def test_fleet_of_two_kinds_keeps_evidence_of_their_queues_apart(monkeypatch):
    """A page shows all kinds at once: runs of two kinds that are otherwise alike share a fleet."""
    one, other = conf.adapters()["crawl_job"], conf.adapters()["source_result"]
    monkeypatch.setattr(type(other), "queue", "elsewhere")
    job, part = running_job(MINUTE), child(parent(), "running", worker="celery@w1/abc")
    witness()
    with freeze_time(NOW), Broker() as link:
        fleet = load_fleet()
        for adapter, row, found_by in ((one, job, WITNESS), (other, part, "")):
            collector = EvidenceCollector(adapter, link, conf.policy(adapter), NOW, may_inspect=False, fleet=fleet)
            (found,) = collector.gather([adapter.get(str(row.pk))])
            assert found.evidence.queue == resolve_queue(adapter)
            assert found.evidence.witness == found_by
