"""A real prefork worker on a broker and a database of the tests' own, killed in mid-crawl."""

from datetime import timedelta

import pytest
from django.db import connection

from apps.sources import dispatch
from apps.sources.models import CrawlJob, Source
from reaper.conf import settings as conf
from reaper.core.facts import Phase
from reaper.models import LedgerEntry, WorkerHeartbeat
from reaper.sweeps.sweep import sweep
from tests import processes
from tests.factories import fresh
from tests.processes import wait_until

pytestmark = [
    pytest.mark.live,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="a worker cannot share SQLite's test database"),
]


@pytest.fixture(scope="module")
def broker():
    with processes.redis_server() as server, processes.broker_at(server.url):
        yield server


@pytest.fixture
def slow():
    """A site that keeps a crawl busy; `url` is its address."""
    with processes.slow_site() as slow:
        yield slow


@pytest.fixture
def start(broker, tmp_path):
    """A function that starts a worker; its log is in the test's folder."""
    broker.flush()

    def start(name, **environment):
        environment = {"CELERY_BROKER_URL": broker.url, "CRAWL_ALLOW_PRIVATE": "1", **environment}
        options = ["-Q", "default,crawl", "--pool", "prefork", "--concurrency", "1"]
        return processes.worker(name, tmp_path / f"{name}.log", *options, environment=environment)

    return start


def job_of(url, **fields):
    source = Source.objects.create(name="live", url=url)
    return CrawlJob.objects.create(source=source, **fields)


def has_status(job, status):
    return lambda: fresh(job).status == status


def kill_in_mid_crawl(worker, job, slow):
    """Kill the worker's main process while its child waits for a page; its children die with it."""
    wait_until(lambda: fresh(job).pages_crawled == 1 and slow.asked.is_set(), what="the crawl is under way")
    worker.kill()
    worker.wait()


def sweep_until_acted(phase):
    """Sweep until a sweep did something."""
    return wait_until(lambda: (row := sweep(conf.adapters()["crawl_job"], phase)).acted and row)


def test_killed_workers_run_stays_running_until_failed_once(start, slow, broker, settings):
    job = job_of(slow.url)
    with start("victim") as victim:
        task_id = dispatch.dispatch_run(CrawlJob, job.pk)
        kill_in_mid_crawl(victim, job, slow)
    slow.go.set()
    left = fresh(job)
    assert left.status == "running"
    assert left.task_id == task_id
    assert left.worker.startswith("victim@test/")
    assert left.worker == str(WorkerHeartbeat.objects.get()), "the run names the worker whose reports vouch for it"
    assert broker.ids() == []
    assert sweep(conf.adapters()["crawl_job"], Phase.RUNNING).acted == 0
    assert fresh(job).status == "running"

    settings.REAPER = {**settings.REAPER, "RUN_TIMEOUT": timedelta(seconds=1)}
    sweep_until_acted(Phase.RUNNING)
    after = fresh(job)
    assert after.status == "failed"
    assert after.error_code == "timed_out"
    assert after.pages_crawled == 1
    assert sweep(conf.adapters()["crawl_job"], Phase.RUNNING).acted == 0
    assert LedgerEntry.objects.count() == 1
    assert broker.ids() == []


@pytest.mark.fault("a worker is killed, and its kind is requeued")
def test_requeued_run_is_completed_by_next_worker(start, slow, broker, settings):
    lost, never_sent = job_of(slow.url), job_of(slow.url)
    with start("victim") as victim:
        first_id = dispatch.dispatch_run(CrawlJob, lost.pk)
        kill_in_mid_crawl(victim, lost, slow)
    slow.go.set()
    one_second = timedelta(seconds=1)
    settings.REAPER = {
        **settings.REAPER,
        **{"RUN_TIMEOUT": one_second, "LOST_GRACE": one_second, "ON_TIMEOUT": "requeue"},
    }
    sweep_until_acted(Phase.RUNNING)
    sweep_until_acted(Phase.QUEUED)
    assert sorted(broker.ids()) == sorted([fresh(lost).task_id, fresh(never_sent).task_id])
    assert first_id not in broker.ids()
    with start("successor"):
        for job in (lost, never_sent):
            wait_until(has_status(job, "completed"), what="the successor completes the run")
    assert [fresh(job).pages_crawled for job in (lost, never_sent)] == [2, 2]
    assert fresh(lost).worker.startswith("successor@test/")
    assert LedgerEntry.objects.count() == 2


def test_crawl_over_soft_time_limit_ends_itself_and_worker_goes_on(start, slow, broker):
    stuck = job_of(slow.url)
    with start("limited"):
        # In the message, whose limits win over the worker's: a publisher that knows the task sends its own.
        dispatch.dispatch_run(CrawlJob, stuck.pk, soft_time_limit=3, time_limit=20)
        wait_until(has_status(stuck, "failed"), what="the crawl fails itself")
        after = fresh(stuck)
        assert after.error_code == "time_limit"
        assert after.pages_crawled == 1
        slow.go.set()
        quick = job_of(slow.url)
        dispatch.dispatch_run(CrawlJob, quick.pk)
        wait_until(has_status(quick, "completed"), what="the worker goes on")
