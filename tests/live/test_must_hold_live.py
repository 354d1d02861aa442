"""Runs that must be left alone, and lost ones among them, with real workers and the default thresholds."""

import signal
from datetime import timedelta
from uuid import uuid4

import pytest
from celery import current_app
from django.db import connection
from django.utils import timezone
from kombu import Connection

from apps.sources import dispatch
from apps.sources.models import CrawlJob, Source
from apps.sources.reaping import CrawlJobs, SourceResults
from reaper import tasks
from reaper.conf import clock
from reaper.conf import settings as conf
from reaper.core.facts import Phase
from reaper.models import LedgerEntry, WorkerHeartbeat
from reaper.signals import alerted
from reaper.sweeps.sweep import sweep
from reaper.workers.timing import MAX_LIST_AGE
from tests import processes, rabbit
from tests.factories import COMMITTED
from tests.live.scenario import scenario_on
from tests.live.worker_quirks import DRIFT
from tests.processes import wait_until

pytestmark = [
    pytest.mark.lane,
    pytest.mark.live,
    pytest.mark.long,
    pytest.mark.timeout(900),
    COMMITTED,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="a worker cannot share SQLite's test database"),
]

HOUR = timedelta(hours=1)


@pytest.mark.fault("clocks are 288 s and an hour off, workers are busy, draining, halted, of an older release")
def test_runs_held_by_live_workers_that_look_dead_are_left_alone(scenario, broker):
    """Each worker looks dead in a different way, for longer than `DEAD_AFTER`; in the end all runs complete."""
    clocks = {"ahead": HOUR, "behind": -HOUR, "fast": DRIFT, "slow": -DRIFT}
    quirks = {
        **{name: name for name in clocks},
        "old": "without_heartbeat",
        "computing": "cpu_bound",
        "redelivered": "redelivering",
    }
    pools = {"busy": ["-P", "solo"], "computing": ["-P", "solo"], "redelivered": ["-c", "2"]}
    names = ("busy", "draining", "stopped", *quirks)
    for name in ("stays", *names):
        scenario.start(name, *pools.get(name, []), quirk=quirks.get(name, ""))
    scenario.await_ready("stays", *names)
    scenario.crawl("redelivered")
    for name in names:
        if name != "redelivered":
            scenario.crawl(name)
    scenario.await_under_way(*names)
    scenario.signal("draining", signal.SIGTERM)
    scenario.until(lambda: "redelivered" in refused(scenario), "the second copy is refused")
    scenario.until(scenario.has_witness, "a worker is a witness")

    scenario.signal("stopped", signal.SIGSTOP)
    scenario.run_for(9)
    assert scenario.is_stopped("stopped")
    scenario.signal("stopped", signal.SIGCONT)
    scenario.run_for(5)
    for name, by in clocks.items():
        report = WorkerHeartbeat.objects.get(hostname=f"{name}@test")
        assert abs(report.listed_at - report.seen_at - by) < timedelta(minutes=1)
    assert not WorkerHeartbeat.objects.filter(hostname="old@test").exists()
    assert WorkerHeartbeat.objects.get(hostname="draining@test").draining

    before = broker.process.pid
    with broker.restarted():
        for _ in range(3):
            assert all(row.acted == 0 for row in scenario.sweep())
    assert broker.process.pid != before
    scenario.run_for(5)
    assert scenario.statuses() == dict.fromkeys(names, "running")
    assert scenario.recovered() == {}
    scenario.release(*names)
    scenario.until(lambda: set(scenario.statuses().values()) == {"completed"}, "all of them complete")
    assert scenario.wrongly_recovered() == set()
    assert claims(scenario).count("redelivered") == 1, "the second copy did no work"
    assert not LedgerEntry.objects.exists()


def refused(scenario):
    """The names of the runs whose task was refused."""
    return events(scenario, "refused")


def claims(scenario):
    """The names of the runs that were claimed, once per claim."""
    return events(scenario, "claimed")


def events(scenario, what):
    names = {scenario.key(name): name for name in scenario.runs}
    return [names[event.run] for event in scenario.watch.journal if event.event == what]


class Retrying(SourceResults):
    """A kind whose tasks retry as Celery's do: the row stays `running`, under the same task."""

    keeps_status_while_retrying = True


def test_run_whose_own_retry_waits_in_the_queue_is_left_alone(scenario, broker, settings):
    adapters = ["apps.sources.reaping.CrawlJobs", f"{__name__}.Retrying"]
    settings.REAPER = {**settings.REAPER, "ADAPTERS": adapters}
    # A queue is known once a worker has consumed it; the worker is killed, so that the message stays there.
    scenario.start("gone", queues="later")
    scenario.start("retries", quirk="retrying")
    scenario.await_ready("gone", "retries")
    scenario.signal("gone", signal.SIGKILL)
    scenario.crawl("retries", child=True, url=f"http://127.0.0.1:{processes.free_port()}/")
    wait_until(lambda: broker.ids("later"), what="its retry waits")
    scenario.until(scenario.has_witness, "a worker is a witness")
    task_id = scenario.row("retries").task_id
    assert broker.ids("later") == [task_id]
    assert scenario.statuses() == {"retries": "running"}
    row = sweep(conf.adapters()["source_result"], Phase.RUNNING)
    assert row.acted == 0
    assert row.counts == {"retry_scheduled": 1}

    with broker.client() as client:
        client.delete("later")
    scenario.until(lambda: scenario.acted, "without its message it is an orphan")
    assert scenario.recovered() == {"retries": "orphaned"}


BACKLOG, LOST = 5_000, 50


def dispatch_long_ago(count):
    """Dispatch runs an hour ago, which is longer than the queue timeout; return their task ids by run."""
    source, then = Source.objects.create(name="patient"), timezone.now() - HOUR
    jobs = [CrawlJob(source=source, task_id=str(uuid4()), created_at=then, queued_at=then) for _ in range(count)]
    CrawlJob.objects.bulk_create(jobs)
    ids = {job.pk: job.task_id for job in jobs}
    with current_app.producer_pool.acquire() as producer:
        for pk, message in dispatch.messages(CrawlJob, ids):
            dispatch.send(message, ids[pk], producer=producer)
    return ids


def await_backlog(scenario):
    """Start one slow worker that has a run under way and a backlog behind it, and is a witness; return the task ids."""
    scenario.start("slow")
    scenario.await_ready("slow")
    scenario.crawl("slow", "crawl")
    wait_until(lambda: scenario.row("slow").pages_crawled == 1, what="it is busy")
    CrawlJob.objects.update(created_at=timezone.now() - HOUR, queued_at=timezone.now() - HOUR)
    ids = dispatch_long_ago(BACKLOG)
    wait_until(scenario.has_witness, what="it is a witness")
    return ids


def sweep_pending():
    return sweep(conf.adapters()["crawl_job"], Phase.QUEUED)


def last_heartbeat():
    """When the slow worker reported last."""
    return WorkerHeartbeat.objects.values_list("seen_at", flat=True).get()


def sweep_again():
    """Sweep, wait for the next report, and sweep again: the second sighting decides."""
    sweep_pending()
    scanned_at = clock.now("default")
    wait_until(lambda: last_heartbeat() - MAX_LIST_AGE > scanned_at, what="a report from after the scan")
    return sweep_pending()


@pytest.mark.fault("the broker loses some of 5,000 messages")
def test_only_lost_messages_among_5000_waiting_runs_are_sent_again(scenario, broker, caplog):
    ids = await_backlog(scenario)
    assert sweep_again().acted == 0
    assert backlog_alerts(caplog) == [BACKLOG]

    with broker.client() as client:
        waiting = client.lrange("crawl", 0, -1)
        gone = waiting[:: len(waiting) // LOST][:LOST]
        assert sum(client.lrem("crawl", 1, raw) for raw in gone) == LOST
    missing = set(ids.values()) - set(broker.ids()) - {reserved_task()}
    assert len(missing) == LOST
    assert sweep_again().counts["lost"] == LOST
    acted = dict(LedgerEntry.objects.values_list("task_id", "action"))
    assert acted == dict.fromkeys(missing, "requeue")
    now_waiting = broker.ids()
    assert len(now_waiting) == len(set(now_waiting))
    assert {job.task_id for job in CrawlJob.objects.filter(status="pending")} == {*now_waiting, reserved_task()}
    assert sweep_again().acted == 0
    assert scenario.wrongly_recovered() == set()


@pytest.mark.skipif(not rabbit.is_installed(), reason="RabbitMQ is not installed")
def test_5000_runs_waiting_in_rabbitmq_are_left_alone(transactional_db, tmp_path, caplog):
    with rabbit.rabbit_server() as server, scenario_on(server.url, tmp_path) as scenario:
        await_backlog(scenario)
        row = sweep_again()
        assert row.acted == 0
        assert row.errors == []
        assert row.counts == {"reserved": 1, "inconclusive": BACKLOG - 1}
        assert backlog_alerts(caplog) == [BACKLOG]


class InOrder(CrawlJobs):
    """A kind whose runs start in the order of their dispatch."""

    is_fifo = True


@pytest.mark.skipif(not rabbit.is_installed(), reason="RabbitMQ is not installed")
def test_run_lost_from_rabbitmq_is_sent_again_once_later_ones_started(transactional_db, tmp_path, settings):
    adapters = [f"{__name__}.InOrder", "apps.sources.reaping.SourceResults"]
    settings.REAPER = {**settings.REAPER, "ADAPTERS": adapters}
    with rabbit.rabbit_server() as server, scenario_on(server.url, tmp_path) as scenario:
        scenario.crawl("lost", "crawl")
        with Connection(server.url) as connection:
            assert connection.default_channel.queue_purge("crawl") == 1
        CrawlJob.objects.update(created_at=timezone.now() - HOUR, queued_at=timezone.now() - HOUR)
        # One is executed and one reserved, so the third keeps the queue from being empty, which would prove the loss.
        later = ("first", "second", "third")
        for name in later:
            scenario.crawl(name, "crawl")
        scenario.start("works")
        scenario.await_ready("works")
        wait_until(lambda: scenario.row("first").pages_crawled == 1, what="one that was sent later has started")
        wait_until(scenario.has_witness, what="it is a witness")
        assert sweep_pending().acted == 1
        assert scenario.recovered() == {"lost": "overtaken"}
        scenario.release(*later, "lost")
        wait_until(lambda: set(scenario.statuses().values()) == {"completed"}, what="all complete")


def backlog_alerts(caplog):
    """How many runs each backlog alert names; the log has one line for each signal."""
    counts = []

    def hear(reason, runs, **_):
        # There are alerts about the phases that no Beat sweeps here, too.
        if reason == "backlog":
            counts.append(len(runs))

    caplog.clear()
    alerted.connect(hear)
    try:
        tasks.raise_alerts()
    finally:
        alerted.disconnect(hear)
    assert len([line for line in caplog.messages if line.startswith("backlog")]) == len(counts)
    return counts


def reserved_task():
    """The task that the slow worker has reserved beside the one that it executes."""
    (held,) = WorkerHeartbeat.objects.values_list("held", flat=True).get()
    return held


@pytest.mark.fault("the broker is full")
def test_redis_at_its_memory_limit_loses_nothing_and_sends_all_later(transactional_db, broker):
    source, then = Source.objects.create(name="unsent"), timezone.now() - HOUR
    CrawlJob.objects.bulk_create([CrawlJob(source=source, created_at=then) for _ in range(3)])
    with processes.broker_at(broker.url), broker.client() as client:
        client.config_set("maxmemory", 1)
        tried = [sweep_pending() for _ in range(3)]
        assert "maxmemory" in tried[0].error_messages[0]
        assert client.ping()
        assert broker.ids() == []
        client.config_set("maxmemory", 0)
        # Only once the first attempt, which may still be under way, has timed out.
        wait_until(lambda: sweep_pending() and broker.ids(), what="they go out")
    assert sorted(broker.ids()) == sorted(CrawlJob.objects.values_list("task_id", flat=True))
    assert LedgerEntry.objects.count() == 3, "each was requeued once, however often it was tried"
