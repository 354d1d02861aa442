"""The evidence on running runs: their claimant, and the worker that holds their task."""

from uuid import uuid4

import pytest
from django.db import connection

from reaper.conf import settings as conf
from reaper.core.facts import Liveness, Phase
from reaper.workers.timing import DEAD_AFTER
from tests.factories import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    executing,
    fresh,
    held_job,
    orphan,
    queued_job,
    report,
    running_job,
    witness,
)
from tests.reaper.evidence.collecting import gather, scan_finds, sweep

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


def test_runs_collected_together_each_have_their_own_evidence(answers):
    """Runs with the same key share their evidence: nothing about a single run may get into another's."""
    report("celery@gone/abc", silent=MINUTE, held=[copy := str(uuid4())])
    others = [running_job(MINUTE, worker="celery@w2/abc") for _ in range(2)]
    executing(others[0], name="celery@w2/abc", since=2 * MINUTE, held=[others[1].task_id])
    rows = [
        *(orphan(), orphan(), held_job(MINUTE), *others, running_job(MINUTE, worker="")),
        *(running_job(MINUTE, worker="celery@unheard/abc") for _ in range(2)),
        *(running_job(MINUTE, worker="", task_id=each) for each in ("", copy)),
        queued_job(MINUTE),
    ]
    alone = [gather(row)[0] for row in rows]
    assert gather(*rows) == alone
    assert gather(*reversed(rows)) == alone[::-1]
    # The same is known about the three whose claimant sends no heartbeat.
    assert len(set(alone)) == len(rows) - 2


def test_waiting_retry_is_not_shared_with_runs_of_the_same_worker(monkeypatch, answers):
    monkeypatch.setattr(type(conf.adapters()["crawl_job"]), "keeps_status_while_retrying", True)
    # The last heartbeat of their worker names only the last one.
    waits, gone, _ = orphan(), orphan(), orphan()
    scan_finds(monkeypatch, waiting={waits.task_id}, depth={"crawl": 1})
    for rows in ([waits, gone], [gone, waits]):
        assert [each.retry_waiting for each in gather(*rows)] == [row is waits for row in rows]


def test_healthy_run_is_held_by_the_worker_that_reports_it():
    (found,) = gather(held_job(MINUTE))
    assert found.holder == "celery@w1/abc"
    assert found.active_since == NOW - MINUTE
    assert found.claimant_liveness == Liveness.ALIVE
    assert found.claimant_seen_at == NOW
    assert found.absent is False


def test_holder_of_a_duplicated_task_is_the_worker_that_executes_it():
    job = running_job(MINUTE)
    for name in ("celery@a/abc", "celery@z/abc"):
        report(name, held=[job.task_id])
    executing(job, name="celery@m/abc")
    report("celery@n/abc", held=[job.task_id])
    (found,) = gather(job)
    assert found.holder == "celery@m/abc"
    assert found.active_since == NOW - MINUTE


@pytest.mark.parametrize(
    ("silent", "claimant", "reaped"),
    [(DEAD_AFTER, Liveness.ALIVE, False), (DEAD_AFTER + SECOND, Liveness.DEAD, True)],
    ids=["at the limit", "beyond"],
)
def test_claimant_silent_for_longer_than_12s_is_dead(silent, claimant, reaped):
    job = running_job(MINUTE)
    executing(job, silent=silent)
    witness()
    (found,) = gather(job)
    assert found.claimant_liveness is claimant
    assert bool(sweep(Phase.RUNNING).acted) is reaped


def test_claimant_without_heartbeat_leaves_the_run_inconclusive():
    job = running_job(MINUTE)
    witness()
    assert gather(job)[0].claimant_liveness is Liveness.UNKNOWN
    assert sweep(Phase.RUNNING).counts == {"inconclusive": 1}


@pytest.mark.skipif(connection.vendor != "postgresql", reason="other databases show no sessions")
def test_claimant_whose_session_is_gone_is_dead_before_12s():
    job = running_job(MINUTE)
    executing(job, silent=9 * SECOND, backend_pid=2**31 - 1)
    witness()
    assert gather(job)[0].claimant_liveness is Liveness.DEAD
    assert sweep(Phase.RUNNING).counts == {"orphaned": 1}


@pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["behind", "ahead"])
def test_worker_clock_an_hour_off_changes_no_verdict(limits, by):
    limits(RUN_TIMEOUT=10 * MINUTE, ALERT_AFTER=5 * MINUTE)
    there = NOW - by
    healthy = running_job(MINUTE, started_at=there - MINUTE, worker="celery@off/abc")
    report("celery@off/abc", listed_at=there, active={healthy.task_id: (there - MINUTE).timestamp()})
    let_go = running_job(MINUTE, started_at=there - MINUTE, worker="celery@off/abc")
    report("celery@dead/abc", silent=MINUTE, listed_at=there - MINUTE)
    dead = running_job(MINUTE, started_at=there - MINUTE, worker="celery@dead/abc")
    witness()
    assert gather(healthy)[0].active_since == NOW - MINUTE
    assert sweep(Phase.RUNNING).counts == {"in_progress": 1, "orphaned": 2}
    assert {fresh(each).status for each in (let_go, dead)} == {"failed"}
