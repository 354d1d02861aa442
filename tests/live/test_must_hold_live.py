"""What must never be touched, with real workers and the default thresholds, and what must be found among it."""

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
from reaper.sweeps import sweep as sweeps
from reaper.workers.timing import MAX_LIST_AGE
from tests import processes, rabbit
from tests.live.odd import DRIFT
from tests.live.stage import stage_at
from tests.processes import wait_until
from tests.worlds import COMMITTED

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
def test_runs_that_a_live_worker_holds_are_left_alone_whatever_makes_it_look_dead(stage, broker):
    """Each worker looks dead in a way of its own, for longer than the silence limit; in the end all runs complete."""
    clocks = {"ahead": HOUR, "behind": -HOUR, "fast": DRIFT, "slow": -DRIFT}
    odd = {**{name: name for name in clocks}, "old": "mute", "computing": "computing", "redelivered": "forgetful"}
    pools = {"busy": ["-P", "solo"], "computing": ["-P", "solo"], "redelivered": ["-c", "2"]}
    names = ("busy", "draining", "stopped", *odd)
    for name in ("stays", *names):
        stage.start(name, *pools.get(name, []), odd=odd.get(name, ""))
    stage.await_ready("stays", *names)
    stage.crawl("redelivered")
    for name in names:
        if name != "redelivered":
            stage.crawl(name)
    stage.await_under_way(*names)
    stage.signal("draining", signal.SIGTERM)
    stage.until(lambda: "redelivered" in refused(stage), "the second copy is refused")
    stage.until(stage.has_witness, "somebody has been reporting for long enough")

    stage.signal("stopped", signal.SIGSTOP)
    stage.go_on(9)
    assert stage.is_stopped("stopped")
    stage.signal("stopped", signal.SIGCONT)
    stage.go_on(5)
    for name, by in clocks.items():
        report = WorkerHeartbeat.objects.get(hostname=f"{name}@test")
        assert abs(report.listed_at - report.seen_at - by) < timedelta(minutes=1)
    assert not WorkerHeartbeat.objects.filter(hostname="old@test").exists()
    assert WorkerHeartbeat.objects.get(hostname="draining@test").draining

    before = broker.process.pid
    with broker.restarted():
        for _ in range(3):
            assert all(row.acted == 0 for row in stage.sweep())
    assert broker.process.pid != before
    stage.go_on(5)
    assert (stage.statuses(), stage.reaped()) == (dict.fromkeys(names, "running"), {})
    stage.let_go(*names)
    stage.until(lambda: set(stage.statuses().values()) == {"completed"}, "all of them complete")
    assert stage.wrongly_reaped() == set()
    assert claims(stage).count("redelivered") == 1, "the second copy did no work"
    assert not LedgerEntry.objects.exists()


def refused(stage):
    """The runs by name whose task was refused."""
    return events(stage, "refused")


def claims(stage):
    """The runs by name, once for each task that claimed one."""
    return events(stage, "claimed")


def events(stage, what):
    names = {stage.key(name): name for name in stage.runs}
    return [names[event.run] for event in stage.watch.journal if event.event == what]


class Retrying(SourceResults):
    """A kind whose tasks retry as Celery's do: the row stays `running`, under the same task."""

    keeps_status_while_retrying = True


def test_a_run_whose_own_retry_waits_in_the_queue_is_left_alone_as_long_as_it_does(stage, broker, settings):
    adapters = ["apps.sources.reaping.CrawlJobs", f"{__name__}.Retrying"]
    settings.REAPER = {**settings.REAPER, "ADAPTERS": adapters}
    # Somebody must have consumed the queue for it to be known; then nobody does, so the message stays there.
    stage.start("gone", queues="later")
    stage.start("retries", odd="retrying")
    stage.await_ready("gone", "retries")
    stage.signal("gone", signal.SIGKILL)
    stage.crawl("retries", child=True, url=f"http://127.0.0.1:{processes.free_port()}/")
    wait_until(lambda: broker.ids("later"), what="its retry waits")
    stage.until(stage.has_witness, "somebody has been reporting for long enough")
    task_id = stage.row("retries").task_id
    assert (broker.ids("later"), stage.statuses()) == ([task_id], {"retries": "running"})
    row = sweeps.sweep(conf.adapters()["source_result"], Phase.RUNNING)
    assert (row.acted, row.counts) == (0, {"retry_scheduled": 1})

    with broker.client() as client:
        client.delete("later")
    stage.until(lambda: stage.acted, "without its message it is an orphan")
    assert stage.reaped() == {"retries": "orphaned"}


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


def await_backlog(stage):
    """One slow worker, which has a run under way and a backlog behind it, and has been reporting for long enough."""
    stage.start("slow")
    stage.await_ready("slow")
    stage.crawl("slow", "crawl")
    wait_until(lambda: stage.row("slow").pages_crawled == 1, what="it is busy")
    CrawlJob.objects.update(created_at=timezone.now() - HOUR, queued_at=timezone.now() - HOUR)
    ids = dispatch_long_ago(BACKLOG)
    wait_until(stage.has_witness, what="it has been reporting for long enough")
    return ids


def sweep_pending():
    return sweeps.sweep(conf.adapters()["crawl_job"], Phase.QUEUED)


def heard():
    """When the slow worker was heard last."""
    return WorkerHeartbeat.objects.values_list("seen_at", flat=True).get()


def sweep_again():
    """Sweep, wait for the next report, and sweep again: the second look decides."""
    sweep_pending()
    looked = clock.now("default")
    wait_until(lambda: heard() - MAX_LIST_AGE > looked, what="a report of after the look")
    return sweep_pending()


@pytest.mark.fault("the broker loses some of 5,000 messages")
def test_of_5000_waiting_runs_only_those_whose_messages_are_gone_are_sent_again(stage, broker, caplog):
    ids = await_backlog(stage)
    assert sweep_again().acted == 0
    assert told_of_backlog(caplog) == [BACKLOG]

    with broker.client() as client:
        waiting = client.lrange("crawl", 0, -1)
        gone = waiting[:: len(waiting) // LOST][:LOST]
        assert sum(client.lrem("crawl", 1, raw) for raw in gone) == LOST
    missing = set(ids.values()) - set(broker.ids()) - {worker_holds()}
    assert len(missing) == LOST
    assert sweep_again().counts["lost"] == LOST
    acted = dict(LedgerEntry.objects.values_list("task_id", "action"))
    assert acted == dict.fromkeys(missing, "requeue")
    now_waiting = broker.ids()
    assert len(now_waiting) == len(set(now_waiting))
    assert {job.task_id for job in CrawlJob.objects.filter(status="pending")} == {*now_waiting, worker_holds()}
    assert sweep_again().acted == 0
    assert stage.wrongly_reaped() == set()


@pytest.mark.skipif(not rabbit.is_installed(), reason="RabbitMQ is not installed")
def test_of_5000_runs_that_wait_in_rabbitmq_none_is_touched(transactional_db, tmp_path, caplog):
    with rabbit.rabbit_server() as server, stage_at(server.url, tmp_path) as stage:
        await_backlog(stage)
        row = sweep_again()
        assert (row.acted, row.errors, row.counts) == (0, [], {"reserved": 1, "unknown": BACKLOG - 1})
        assert told_of_backlog(caplog) == [BACKLOG]


class InOrder(CrawlJobs):
    """A kind whose runs start in the order of their dispatch."""

    is_fifo = True


@pytest.mark.skipif(not rabbit.is_installed(), reason="RabbitMQ is not installed")
def test_a_run_that_is_lost_from_rabbitmq_is_sent_again_once_much_later_ones_have_started(
    transactional_db, tmp_path, settings
):
    adapters = [f"{__name__}.InOrder", "apps.sources.reaping.SourceResults"]
    settings.REAPER = {**settings.REAPER, "ADAPTERS": adapters}
    with rabbit.rabbit_server() as server, stage_at(server.url, tmp_path) as stage:
        stage.crawl("lost", "crawl")
        with Connection(server.url) as connection:
            assert connection.default_channel.queue_purge("crawl") == 1
        CrawlJob.objects.update(created_at=timezone.now() - HOUR, queued_at=timezone.now() - HOUR)
        # One is executed and one reserved, so the queue is not empty, which would tell that the message is gone.
        later = ("first", "second", "third")
        for name in later:
            stage.crawl(name, "crawl")
        stage.start("works")
        stage.await_ready("works")
        wait_until(lambda: stage.row("first").pages_crawled == 1, what="one that was sent later has started")
        wait_until(stage.has_witness, what="it has been reporting for long enough")
        assert sweep_pending().acted == 1
        assert stage.reaped() == {"lost": "overtaken"}
        stage.let_go(*later, "lost")
        wait_until(lambda: set(stage.statuses().values()) == {"completed"}, what="all complete")


def told_of_backlog(caplog):
    """How many runs each warning of a backlog told of; the log has one line for each signal."""
    told = []

    def hear(reason, runs, **_):
        # The phases that no Beat sweeps here are told of, too.
        if reason == "backlog":
            told.append(len(runs))

    caplog.clear()
    alerted.connect(hear)
    try:
        tasks.raise_alerts()
    finally:
        alerted.disconnect(hear)
    assert len([line for line in caplog.messages if line.startswith("backlog")]) == len(told)
    return told


def worker_holds():
    """The task that the slow worker was given beside the one it executes."""
    (held,) = WorkerHeartbeat.objects.values_list("held", flat=True).get()
    return held


@pytest.mark.fault("the broker is full")
def test_a_redis_at_its_memory_limit_costs_no_run_anything_and_all_goes_out_once_it_can(transactional_db, broker):
    source, then = Source.objects.create(name="unsent"), timezone.now() - HOUR
    CrawlJob.objects.bulk_create([CrawlJob(source=source, created_at=then) for _ in range(3)])
    with processes.broker_at(broker.url), broker.client() as client:
        client.config_set("maxmemory", 1)
        tried = [sweep_pending() for _ in range(3)]
        assert "maxmemory" in tried[0].errors[0]
        assert client.ping()
        assert broker.ids() == []
        client.config_set("maxmemory", 0)
        # Not before its first attempt, which may still be under way, has had its time.
        wait_until(lambda: sweep_pending() and broker.ids(), what="they go out")
    assert sorted(broker.ids()) == sorted(CrawlJob.objects.values_list("task_id", flat=True))
    assert LedgerEntry.objects.count() == 3, "each was requeued once, however often it was tried"
