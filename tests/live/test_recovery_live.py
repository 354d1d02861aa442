"""What loses runs, with real workers and the default thresholds: each is recovered within seconds, no other is."""

import os
import signal
import time

import pytest
from django.db import connection

from reaper.models import LedgerEntry, RefusedWrite, WorkerHeartbeat
from tests.factories import COMMITTED

pytestmark = [
    pytest.mark.lane,
    pytest.mark.live,
    pytest.mark.long,
    pytest.mark.timeout(900),
    COMMITTED,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="a worker cannot share SQLite's test database"),
]

# Seconds. A dead session is known after 8, silence after 12, a sweep runs every second; the rest is for slow machines.
SOON_S = 60


@pytest.mark.fault("some of many workers are killed, out of memory, evicted, stopped, over their time limit, deployed")
def test_only_runs_that_lost_their_worker_are_failed_within_seconds(scenario):
    """Each worker has a run under way and then trouble of its own; one more stays idle and is the witness."""
    lost = ("killed", "out_of_memory", "quit", "group", "evicted", "stopped")
    workers = ("stays", *lost, "over_limit", "deployed")
    for name in workers:
        scenario.start(name, "-c", "1")
    scenario.await_ready(*workers)
    for name in (*lost, "deployed"):
        scenario.crawl(name)
    scenario.await_under_way(*lost, "deployed")
    scenario.until(scenario.has_witness, "a worker is a witness")
    assert scenario.recovered() == {}

    began = time.monotonic()
    # Without a soft limit: the one of this process's settings would go along, and delay the hard one.
    scenario.crawl("over_limit", time_limit=5, soft_time_limit=0)
    scenario.signal("killed", signal.SIGKILL)
    os.kill(scenario.child_of("out_of_memory"), signal.SIGKILL)
    scenario.signal("quit", signal.SIGQUIT)
    scenario.signal("group", signal.SIGTERM, group=True)
    scenario.signal("stopped", signal.SIGSTOP)
    # A deploy: both drain beside a successor of the same name. One of them gets no time to.
    for name in ("deployed", "evicted"):
        scenario.signal(name, signal.SIGTERM)
        scenario.start(f"{name}_anew", node=name)
    scenario.until(
        lambda: WorkerHeartbeat.objects.filter(hostname="evicted@test", draining=True).exists(), "the old one drains"
    )
    scenario.signal("evicted", signal.SIGKILL)
    lost = (*lost, "over_limit")
    scenario.until(lambda: set(scenario.acted) == set(lost), "all that was lost is found")
    assert all(scenario.acted[name] - began < SOON_S for name in scenario.acted), scenario.acted
    ended = {name for name in workers if scenario.has_ended(name)}
    assert ended == {"killed", "quit", "group", "evicted"}
    assert scenario.is_stopped("stopped")

    # The stopped worker comes back to a run that is no longer its own; the draining one completes its run.
    scenario.release(*scenario.runs)
    scenario.signal("stopped", signal.SIGCONT)
    scenario.until(lambda: RefusedWrite.objects.exists(), "the late write is refused")
    scenario.until(lambda: scenario.row("deployed").status == "completed", "the deploy cut nothing off")
    refused = RefusedWrite.objects.get()
    assert refused.run_id == scenario.key("stopped")
    assert refused.write == "progress"
    assert scenario.statuses() == {**dict.fromkeys(lost, "failed"), "deployed": "completed"}
    assert scenario.recovered() == dict.fromkeys(lost, "orphaned")
    announced = LedgerEntry.objects.filter(evidence__shutdown_announced=True).values_list("run_id", flat=True)
    assert set(announced) == {scenario.key(name) for name in ("evicted", "group", "quit")}, "a deploy is no poison"
    assert scenario.wrongly_recovered() == {"stopped"}, "its process lived, but that could not be known"


@pytest.mark.fault("a run kills each process that executes it: poison")
def test_poison_run_is_requeued_to_its_budget_and_then_failed(scenario, settings):
    """Its process is killed, as by the kernel without memory, each time it gets to the second page."""
    budget = {"ON_ORPHAN": "requeue", "MAX_REQUEUES": 2, "BACKOFF": [1]}
    settings.REAPER = {**settings.REAPER, "KINDS": {"crawl_job": budget}}
    scenario.start("works", "-c", "2")
    scenario.await_ready("works")
    scenario.crawl("healthy", queue="works")
    scenario.crawl("poison", queue="works")
    scenario.await_under_way("healthy")
    tasks = []
    for times in range(1, 4):
        await_begun(scenario, "poison", times)
        tasks.append(scenario.row("poison").task_id)
        os.kill(scenario.child_of("poison"), signal.SIGKILL)
        scenario.until(lambda: LedgerEntry.objects.filter(task_id=tasks[-1]).exists(), "its end is found")

    scenario.until(lambda: scenario.statuses()["poison"] == "failed", "it is given up")
    assert len(set(tasks)) == 3
    assert scenario.row("poison").error_code == "poison"
    actions = LedgerEntry.objects.filter(run_id=scenario.key("poison"), reason="orphaned").order_by("pk")
    assert list(actions.values_list("action", flat=True)) == ["requeue", "requeue", "fail"]
    scenario.release("healthy", "poison")
    scenario.until(lambda: scenario.statuses()["healthy"] == "completed", "the other run is not affected")
    scenario.run_for(3)
    assert begun(scenario, "poison") == 3, "it is not tried again"
    assert scenario.wrongly_recovered() == set()


def begun(scenario, name):
    """How often a run was claimed."""
    return sum(event.event == "claimed" and event.run == scenario.key(name) for event in scenario.watch.journal)


def await_begun(scenario, name, times):
    scenario.until(lambda: begun(scenario, name) == times, f"{name} is executed for the {times}. time")


@pytest.mark.fault("all workers of a queue are dead")
def test_run_of_a_worker_alone_on_its_queue_waits_for_its_return(scenario):
    """Alone on its queue, its silence might be the network's; `DEAD_AFTER` after its return that is ruled out."""
    scenario.start("reaper", queues="reaper")
    scenario.start("alone")
    scenario.await_ready("reaper", "alone")
    scenario.crawl("alone")
    scenario.await_under_way("alone")
    scenario.signal("alone", signal.SIGKILL)
    scenario.until(scenario.has_witness, "the reaper's own worker would be a witness, if it consumed the queue")
    scenario.run_for(3)
    assert scenario.statuses() == {"alone": "running"}

    scenario.start("anew", node="alone")
    scenario.await_ready("anew")
    back = time.monotonic()
    scenario.until(lambda: scenario.acted, "it is recovered once its successor is a witness", SOON_S)
    assert scenario.acted["alone"] - back > 9, "a worker that has only just come back proves nothing"
    assert scenario.statuses() == {"alone": "failed"}
    assert scenario.recovered() == {"alone": "orphaned"}
    assert scenario.wrongly_recovered() == set()
