"""Tasks that outlive their runs, and are terminated."""

import pytest

from apps.sources.models import CrawlJob
from reaper.core.facts import Phase
from tests.factories import HOUR, MINUTE, NOW, SECOND, executing, report, running_job
from tests.reaper.evidence.collecting import sweep
from tests.servers import killed

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


def test_recovered_task_still_executing_after_10s_is_terminated(broker):
    job = running_job(2 * HOUR)
    sweep(Phase.RUNNING)
    broker.revokes()
    for seconds, revokes in ((10, []), (11, [killed([job.task_id], "celery@w4")])):
        at = NOW + seconds * SECOND
        executing(job, name="celery@w4/abc", now=at)
        sweep(Phase.RUNNING, at)
        assert broker.revokes() == revokes
    executing(name="celery@w4/abc", now=NOW + 12 * SECOND)
    sweep(Phase.RUNNING, NOW + 12 * SECOND)
    assert broker.revokes() == []


def test_task_that_never_lost_a_run_is_not_terminated(broker):
    completed = running_job(2 * HOUR, status="completed")
    executing(completed)
    report("celery@w2/abc", active={"somebody else's": NOW.timestamp()})
    sweep(Phase.RUNNING)
    assert broker.revokes() == []


@pytest.mark.parametrize("status", ["pending", "running"])
def test_task_that_a_run_carries_again_is_not_terminated(broker, status):
    job = running_job(2 * HOUR)
    sweep(Phase.RUNNING)
    broker.revokes()
    later = NOW + MINUTE
    CrawlJob.objects.filter(pk=job.pk).update(status=status, started_at=later, queued_at=later)
    executing(job, now=later)
    sweep(Phase.RUNNING, later)
    assert broker.revokes() == []
