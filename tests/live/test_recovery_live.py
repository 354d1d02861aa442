"""What leaves runs behind, for real and with the default thresholds: each is recovered within seconds, nothing else."""

import os
import signal
import time

import pytest
from django.db import connection

from reaper.models import LedgerEntry, RefusedWrite, WorkerHeartbeat
from tests.worlds import COMMITTED

pytestmark = [
    pytest.mark.lane,
    pytest.mark.live,
    pytest.mark.long,
    pytest.mark.timeout(900),
    COMMITTED,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="a worker cannot share SQLite's test database"),
]

# A dead session is known after 8 s, silence after 12 s; a sweep a second, and a machine that has much else to do.
SOON = 60


@pytest.mark.fault("some of many workers are killed, out of memory, evicted, stopped, over their time limit, deployed")
def test_runs_that_lost_their_worker_are_failed_within_seconds_and_no_others(stage):
    """Ten workers, each with a run under way, and then each in trouble of its own; one more stays and is idle."""
    lost = ("killed", "out_of_memory", "quit", "group", "evicted", "stopped")
    workers = ("stays", *lost, "over_limit", "deployed")
    for name in workers:
        stage.start(name, "-c", "1")
    stage.await_ready(*workers)
    for name in (*lost, "deployed"):
        stage.crawl(name)
    stage.await_under_way(*lost, "deployed")
    stage.until(stage.has_witness, "somebody has been reporting for long enough")
    assert stage.reaped() == {}

    began = time.monotonic()
    # Without a soft limit: this process's own would go with the message, and Celery counts the hard one from its end.
    stage.crawl("over_limit", time_limit=5, soft_time_limit=0)
    stage.signal("killed", signal.SIGKILL)
    os.kill(stage.child_of("out_of_memory"), signal.SIGKILL)
    stage.signal("quit", signal.SIGQUIT)
    stage.signal("group", signal.SIGTERM, group=True)
    stage.signal("stopped", signal.SIGSTOP)
    # A deploy: both drain beside a successor that has their name. One of them is given no time to.
    for name in ("deployed", "evicted"):
        stage.signal(name, signal.SIGTERM)
        stage.start(f"{name}_anew", node=name)
    stage.until(
        lambda: WorkerHeartbeat.objects.filter(hostname="evicted@test", draining=True).exists(), "the old one drains"
    )
    stage.signal("evicted", signal.SIGKILL)
    lost = (*lost, "over_limit")
    stage.until(lambda: set(stage.acted) == set(lost), "all that was lost is found")
    assert all(stage.acted[name] - began < SOON for name in stage.acted), stage.acted
    ended = {name for name in workers if stage.has_ended(name)}
    assert ended == {"killed", "quit", "group", "evicted"}
    assert stage.is_stopped("stopped")

    # Whoever was stopped comes back to a run that is no longer its own; whoever drains completes its run.
    stage.let_go(*stage.runs)
    stage.signal("stopped", signal.SIGCONT)
    stage.until(lambda: RefusedWrite.objects.exists(), "the late write is refused")
    stage.until(lambda: stage.row("deployed").status == "completed", "the deploy cut nothing off")
    refused = RefusedWrite.objects.get()
    assert (refused.run_id, refused.write) == (stage.key("stopped"), "progress")
    assert stage.statuses() == {**dict.fromkeys(lost, "failed"), "deployed": "completed"}
    assert stage.reaped() == dict.fromkeys(lost, "orphaned")
    announced = LedgerEntry.objects.filter(evidence__announced=True).values_list("run_id", flat=True)
    assert set(announced) == {stage.key(name) for name in ("evicted", "group", "quit")}, "a deploy is no poison"
    assert stage.wrongly_reaped() == {"stopped"}, "its process lived, but nobody could have known"


@pytest.mark.fault("a run kills each process that executes it: poison")
def test_a_run_that_kills_its_worker_each_time_is_requeued_to_its_budget_and_then_failed_as_poison(stage, settings):
    """Its process is killed like one that has no memory left, each time it gets to the second page."""
    budget = {"ON_ORPHAN": "requeue", "MAX_REQUEUES": 2, "BACKOFF": [1]}
    settings.REAPER = {**settings.REAPER, "KINDS": {"crawl_job": budget}}
    stage.start("works", "-c", "2")
    stage.await_ready("works")
    stage.crawl("healthy", queue="works")
    stage.crawl("poison", queue="works")
    stage.await_under_way("healthy")
    tasks = []
    for times in range(1, 4):
        await_begun(stage, "poison", times)
        tasks.append(stage.row("poison").task_id)
        os.kill(stage.child_of("poison"), signal.SIGKILL)
        stage.until(lambda: LedgerEntry.objects.filter(task_id=tasks[-1]).exists(), "its end is found")

    stage.until(lambda: stage.statuses()["poison"] == "failed", "it is given up")
    assert len(set(tasks)) == 3
    assert stage.row("poison").error_code == "poison"
    actions = LedgerEntry.objects.filter(run_id=stage.key("poison"), reason="orphaned").order_by("pk")
    assert list(actions.values_list("action", flat=True)) == ["requeue", "requeue", "fail"]
    stage.let_go("healthy", "poison")
    stage.until(lambda: stage.statuses()["healthy"] == "completed", "the other one is not concerned")
    stage.go_on(3)
    assert begun(stage, "poison") == 3, "nobody tries it again"
    assert stage.wrongly_reaped() == set()


def begun(stage, name):
    """How often a run was claimed."""
    return sum(event.event == "claimed" and event.run == stage.key(name) for event in stage.watch.journal)


def await_begun(stage, name, times):
    stage.until(lambda: begun(stage, name) == times, f"{name} is executed for the {times}. time")


@pytest.mark.fault("all workers of a queue are dead")
def test_the_run_of_a_worker_that_was_alone_waits_until_it_is_back(stage):
    """Alone on its queue, its silence might be the network's; one silence limit after its return it is not."""
    stage.start("reaper", queues="reaper")
    stage.start("alone")
    stage.await_ready("reaper", "alone")
    stage.crawl("alone")
    stage.await_under_way("alone")
    stage.signal("alone", signal.SIGKILL)
    stage.until(stage.has_witness, "the reaper's own worker would be a witness, if it consumed the queue")
    stage.go_on(3)
    assert stage.statuses() == {"alone": "running"}

    stage.start("anew", node="alone")
    stage.await_ready("anew")
    back = time.monotonic()
    stage.until(lambda: stage.acted, "it is recovered once its successor is a witness", SOON)
    assert stage.acted["alone"] - back > 9, "a worker that has only just come back proves nothing"
    assert (stage.statuses(), stage.reaped()) == ({"alone": "failed"}, {"alone": "orphaned"})
    assert stage.wrongly_reaped() == set()
