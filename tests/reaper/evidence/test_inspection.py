"""The workers' own answers, which may contradict the heartbeats."""

import pytest

from reaper.core.facts import Phase
from tests.factories import lost_job, orphan
from tests.reaper.evidence.collecting import gather, sweep

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


@pytest.mark.parametrize("make", [orphan, lost_job])
def test_inspection_reply_naming_the_task_protects_its_run(make, answers):
    job = make()
    answers(holders={job.task_id: "celery@w7"}, responded_fully=frozenset({"celery@crawl-witness"}))
    (found,) = gather(job)
    assert found.holder == "celery@w7"
    assert found.active_since is None
    assert found.absent is False
    phase = Phase.RUNNING if make is orphan else Phase.QUEUED
    assert sweep(phase).counts == {"in_progress" if make is orphan else "reserved": 1}


@pytest.mark.parametrize(
    ("result", "uncertainty"),
    [
        ({"duplicate_nodes": frozenset({"celery@w1"})}, "several workers share the node name celery@w1"),
        ({"responded": frozenset({"celery@stranger"})}, "celery@stranger answers but sends no heartbeat"),
        ({"responded": frozenset({"celery@dead"})}, "celery@dead answers but sends no heartbeat"),
        ({"malformed": 2}, "2 replies of workers could not be parsed"),
        ({"error": "no way"}, "the workers could not be inspected: no way"),
    ],
)
@pytest.mark.parametrize("make", [orphan, lost_job])
def test_unreliable_inspection_protects_every_run(make, answers, result, uncertainty):
    job = make()
    answers(**result)
    (found,) = gather(job)
    assert found.absent is False
    assert found.uncertainties == (uncertainty,)
    assert sweep(Phase.RUNNING if make is orphan else Phase.QUEUED).counts == {"inconclusive": 1}
