"""The collector: when it asks the workers themselves, and how long it may take."""

from time import monotonic

import pytest

from reaper.broker.connection import Broker
from reaper.conf import settings as conf
from reaper.core.facts import NO_EVIDENCE, MessageLocation, Phase
from reaper.evidence import collector, sources
from reaper.evidence.collector import EvidenceCollector
from tests.factories import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    fresh,
    held_job,
    lost_job,
    orphan,
    queued_job,
    report,
    running_job,
)
from tests.reaper.evidence.collecting import HOLDER_NODE, WITNESS_NODE, gather, sweep

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


def test_collector_for_healthy_runs_queries_neither_broker_nor_workers(refusing_broker, django_assert_num_queries):
    adapter = conf.adapters()["crawl_job"]
    rows = [queued_job(2 * SECOND), queued_job(HOUR, task_id=""), queued_job(created_at=NOW + 9 * HOUR, queued_at=None)]
    runs = [adapter.get(str(row.pk)) for row in rows]
    with Broker() as link, django_assert_num_queries(0):
        found = EvidenceCollector(adapter, link, conf.policy(adapter), NOW).gather(runs)
        assert link.error == ""
    assert [each.evidence for each in found] == [NO_EVIDENCE] * 3


def test_inspection_precedes_absence_verdicts_only_and_covers_all_runs(answers):
    gone, timed_out, young, held = orphan(), running_job(2 * HOUR), running_job(4 * SECOND), held_job(MINUTE)
    report("celery@draining/abc", draining=True, queues=[])
    gather(gone, timed_out, young, held)
    # The witness and the worker of the held run. A draining worker does not answer.
    assert answers.calls == [([gone.task_id], [WITNESS_NODE, HOLDER_NODE], sources.INSPECT_TIMEOUT_S)]


@pytest.mark.live
def test_collector_with_everything_hanging_ends_within_5s(hanging_broker):
    rows = [lost_job(), orphan()]
    begin = monotonic()
    found = gather(*rows)
    assert monotonic() - begin < 5
    assert [each.message_location for each in found] == [MessageLocation.UNKNOWN] * 2
    assert not any(each.absent for each in found[1:])
    assert "could not be inspected" in found[1].uncertainties[0]


@pytest.mark.live
def test_silent_worker_neither_delays_nor_protects():
    begin = monotonic()
    (found,) = gather(orphan())
    assert 1 < monotonic() - begin < 4
    assert found.absent is True
    assert found.uncertainties == ()


def test_run_that_cannot_be_judged_stops_no_other_run(monkeypatch):
    bad, good = orphan(), orphan(worker="celery@dead/def")
    decide = collector.decide

    def fragile(run, *more):
        if run.pk == str(bad.pk):
            raise OverflowError("boom")
        return decide(run, *more)

    monkeypatch.setattr(collector, "decide", fragile)
    monkeypatch.setattr("reaper.sweeps.judging.decide", fragile)
    row = sweep(Phase.RUNNING)
    assert row.counts == {"judging_failed": 1, "orphaned": 1}
    assert row.errors == []
    assert fresh(bad).status == "running"
    assert fresh(good).status == "failed"
