"""Reading the sources: how often, in which order, and for how long."""

import pytest
from freezegun import freeze_time

from reaper.broker.connection import Broker
from reaper.broker.snapshot import QueueSnapshot
from reaper.conf import settings as conf
from reaper.evidence import sources
from reaper.evidence.collector import EvidenceCollector
from tests.factories import MINUTE, NOW, held_job, lost_job, orphan, queued_job, report, running_job
from tests.reaper.evidence.collecting import HOLDER_NODE, WITNESS, WITNESS_NODE, gather

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


def test_heartbeats_are_read_once_for_all_pages_of_running_runs(answers, django_assert_num_queries):
    adapter = conf.adapters()["crawl_job"]
    held_job()
    runs = [adapter.get(str(running_job(MINUTE, worker="celery@unheard/abc").pk)) for _ in range(3)]
    with Broker() as link, freeze_time(NOW):
        collector = EvidenceCollector(adapter, link, conf.policy(adapter), NOW)
        with django_assert_num_queries(1):
            for _ in range(2):
                collector.gather(runs)
    assert answers.calls == []


def test_scan_covers_the_queues_of_all_workers_but_not_the_reapers(monkeypatch):
    seen = []

    def note(link, queues, seconds):
        seen.append(set(queues))
        return QueueSnapshot()

    monkeypatch.setattr(sources, "scan_queues", note)
    report("celery@other/abc", queues=["elsewhere", "reaper"])
    gather(queued_job(MINUTE))
    assert seen == [{"crawl", "elsewhere"}]


def test_heartbeats_are_read_again_after_the_scan(monkeypatch, answers):
    """A message that moves on to a worker during the scan would otherwise be in neither."""
    job = lost_job()

    def travels(link, queues, seconds):
        report(WITNESS, held=[job.task_id])
        return QueueSnapshot(depth={"crawl": 0})

    monkeypatch.setattr(sources, "scan_queues", travels)
    assert gather(job)[0].holder == WITNESS


def test_unresponsive_worker_is_not_waited_for_again_in_the_same_sweep(answers):
    pages = [[orphan()] for _ in range(4)]
    held_job(MINUTE)
    adapter = conf.adapters()["crawl_job"]
    with freeze_time(NOW), Broker() as link:
        collector = EvidenceCollector(adapter, link, conf.policy(adapter), NOW)
        for page, answered in zip(pages, ([WITNESS_NODE], [WITNESS_NODE], [], []), strict=True):
            answers(responded_fully=frozenset(answered))
            collector.gather([adapter.get(str(row.pk)) for row in page])
    waits = [(expected, seconds) for _, expected, seconds in answers.calls]
    full, short = sources.INSPECT_TIMEOUT_S, sources.SILENT_FLEET_TIMEOUT_S
    assert waits == [([WITNESS_NODE, HOLDER_NODE], full), ([WITNESS_NODE], full), ([WITNESS_NODE], full), ([], short)]
