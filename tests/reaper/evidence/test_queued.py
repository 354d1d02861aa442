"""The evidence on queued runs: where their message is."""

import pytest

from reaper.core.facts import MessageLocation, Phase
from reaper.models import MessageSighting
from tests.factories import MINUTE, NOW, SECOND, fresh, keep_reporting, lost_job, queued_job, report, witness
from tests.reaper.evidence.collecting import gather, scan_finds, sweep

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


@pytest.mark.parametrize(("consumers", "presence"), [(1, MessageLocation.ABSENT), (2, MessageLocation.UNKNOWN)])
def test_queue_with_more_consumers_than_heartbeats_proves_no_absence(monkeypatch, answers, consumers, presence):
    """RabbitMQ does not show delivered messages, only the number of consumers."""
    job = lost_job()
    scan_finds(monkeypatch, depth={"crawl": 0}, consumers={"crawl": consumers})
    (found,) = gather(job)
    assert found.message_location is presence
    # A worker that does not answer may have a delivery that it has not read.
    assert sweep(Phase.QUEUED).acted == 0
    answers(responded_fully=frozenset({"celery@crawl-witness"}), responded=frozenset({"celery@crawl-witness"}))
    assert bool(sweep(Phase.QUEUED).acted) is (presence is MessageLocation.ABSENT)


def test_queue_not_scanned_to_its_end_proves_no_absence(monkeypatch, answers):
    job = lost_job()
    scan_finds(monkeypatch, depth={"crawl": 9}, incomplete_queues=frozenset({"crawl"}), error="too long")
    (found,) = gather(job)
    assert found.message_location == MessageLocation.UNKNOWN
    assert found.waiting == 9
    assert found.uncertainties == ("too long",)
    assert sweep(Phase.QUEUED).acted == 0


def test_message_delivered_to_a_dead_worker_is_stranded_at_once(monkeypatch, answers):
    jobs = [queued_job(MINUTE) for _ in range(2)]
    scan_finds(monkeypatch, unacked=frozenset(job.task_id for job in jobs), depth={"crawl": 0})
    report("celery@dead/abc", silent=MINUTE, held=[jobs[0].task_id])
    witness()
    assert sweep(Phase.QUEUED).counts == {"stranded": 1, "inconclusive": 1}
    assert fresh(jobs[1]).task_id == jobs[1].task_id
    assert MessageSighting.objects.get(run_id=str(jobs[1].pk)).message_location == "delivered"
    keep_reporting(NOW + 3 * SECOND)
    assert sweep(Phase.QUEUED, NOW + 3 * SECOND).counts["stranded"] == 1
