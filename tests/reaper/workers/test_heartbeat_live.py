"""Real workers on every pool: each way in which Celery's own lists can be wrong, and each way to end.

The tests share one worker per pool, which lives through all of them. A worker that a test kills has the same hostname.
"""

import signal
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from celery import current_app
from django.db import connection, transaction

from reaper.conf import clock
from reaper.models import WorkerHeartbeat
from reaper.workers.registry import load_workers
from tests import processes
from tests.factories import COMMITTED, SECOND
from tests.processes import wait_until

pytestmark = [
    pytest.mark.live,
    COMMITTED,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="a worker cannot share SQLite's test database"),
    # The workers take seconds to start: one process runs all of it.
    pytest.mark.xdist_group("heartbeat"),
]

POOLS = ("prefork", "solo", "threads", "gevent")
HOST = "shared@test"


class Workers:
    """The broker, and the workers that were started on it, by name."""

    def __init__(self, folder, broker):
        self.folder = folder
        self.broker = broker
        self.stack = ExitStack()
        self.processes = {}
        self.sent = []

    def start(self, name, pool, *options, queue=None):
        """Start a worker that consumes the queue of its name; return its process."""
        words = [sys.executable, "-m", "celery", "-A", "tests.reaper.workload", "worker", "-n", HOST, "-P", pool]
        words += ["-Q", queue or name, "-l", "info", "--without-mingle", "--without-gossip", *options]
        environment = {
            "DATABASE_URL": processes.database_url(), "CELERY_BROKER_URL": self.broker.url, "DEBUG": "1",
            "WORKLOAD_FOLDER": str(self.folder), "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        process = self.processes[name] = processes.start(*words, log=self.log(name), environment=environment)
        self.stack.callback(processes.end, process)
        self.stack.callback(process.kill)
        return process

    def log(self, name):
        return self.folder / f"{name}.log"

    def await_ready(self, *names):
        wait_until(lambda: all("ready." in self.log(name).read_text() for name in names), what="they are ready")

    @contextmanager
    def listening(self, name):
        """Yield a function that returns what the worker has logged since."""
        start = len(self.log(name).read_text())
        yield lambda: self.log(name).read_text()[start:]

    def send(self, task, queue, **options):
        """Send a task under a new name; return the name and the task's id."""
        name = str(uuid4())
        self.sent.append(name)
        return name, self.publish(task, name, queue, **options)

    def publish(self, task, name, queue, **options):
        # By name: importing the workload's app would make it this process's current app.
        sent = current_app.send_task(f"tests.reaper.workload.{task}", args=[name], queue=queue, **options)
        return sent.id

    def wait_for(self, name, what="began"):
        """Return what the task wrote when it began or ended, once it has."""
        file = self.folder / f"{name}.{what}"
        wait_until(file.exists, what=f"{what} of the task, see {self.folder}")
        return file.read_text()

    def release(self, *names):
        """Let the tasks end."""
        for name in names:
            (self.folder / f"{name}.go").touch()


@pytest.fixture(autouse=True)
def _no_task_outlives_its_test(workers):
    yield
    workers.release(*workers.sent)


@pytest.fixture(scope="module")
def workers(django_db_setup):
    """One worker per pool, of one hostname; the queues have the pools' names."""
    with processes.redis_server() as server, processes.broker_at(server.url), tempfile.TemporaryDirectory() as folder:
        workers = Workers(Path(folder), server)
        with workers.stack:
            # A new child for every task, so that children are forked after the heartbeat thread has started.
            prefork = ("-c", "2", "--prefetch-multiplier", "4", "--max-tasks-per-child", "1")
            for pool in POOLS:
                workers.start(pool, pool, *(prefork if pool == "prefork" else ("-c", "4")))
            workers.await_ready(*POOLS)
            yield workers


def workers_by_queue():
    """The workers by the queue that they consume, or by their incarnation when they consume none."""
    found = load_workers("default", clock.now("default"))
    return {next(iter(worker.queues), worker.incarnation): worker for worker in found}


def report_of(queue):
    """The worker that consumes the queue, by its last report; None without one."""
    return workers_by_queue().get(queue)


def next_report(queue, is_expected=lambda worker: True):
    """The first report whose lists were taken after this call, and of which `is_expected` is true."""
    now = clock.now("default")

    def later():
        worker = report_of(queue)
        return worker if worker and worker.listed_at > now and is_expected(worker) else None

    return wait_until(later, what=f"a report of {queue}")


def holds(*ids):
    return lambda worker: worker.held >= set(ids)


@pytest.mark.parametrize("pool", POOLS)
def test_running_task_is_reported_by_the_worker_that_it_names(workers, pool):
    name, task_id = workers.send("wait", pool)
    identity, *_ = workers.wait_for(name).split()
    worker = next_report(pool)
    assert worker.name == identity
    assert worker.hostname == HOST
    assert worker.complete is True
    assert worker.alive is True
    assert task_id in worker.held
    began = worker.active[task_id] - worker.listed_at.timestamp()
    assert -processes.PATIENCE < began <= 0
    assert timedelta(0) < worker.skew < 5 * SECOND
    workers.release(name)
    assert next_report(pool, lambda worker: task_id not in worker.held).active == {}


@pytest.mark.parametrize("pool", ["solo", "gevent"])
def test_cpu_bound_task_does_not_silence_its_worker(workers, pool):
    name, task_id = workers.send("compute", pool)
    workers.wait_for(name)
    for _ in range(3):
        assert set(next_report(pool).active) == {task_id}
    workers.release(name)
    workers.wait_for(name, "ended")


def test_task_whose_retry_has_ended_is_still_held(workers):
    name, task_id = workers.send("again", "prefork")
    workers.wait_for(name)
    workers.wait_for(name, "again")
    next_report("prefork")
    assert set(next_report("prefork").active) == {task_id}


def test_task_whose_second_copy_has_ended_is_still_held(workers):
    name, task_id = workers.send("wait", "prefork")
    workers.wait_for(name)
    quick = str(uuid4())
    workers.release(quick)
    workers.publish("wait", quick, "prefork", task_id=task_id)
    workers.wait_for(quick, "ended")
    next_report("prefork")
    assert set(next_report("prefork").active) == {task_id}


def test_reserved_scheduled_and_rate_limited_tasks_are_held(workers):
    busy = [workers.send("wait", "prefork") for _ in range(2)]
    for name, _ in busy:
        workers.wait_for(name)
    reserved = workers.send("wait", "prefork")
    limited = [workers.send("limited", "prefork") for _ in range(2)]
    scheduled = workers.send("wait", "prefork", countdown=3600)
    ids = {task_id for _, task_id in (*busy, reserved, limited[1], scheduled)}
    worker = next_report("prefork", holds(*ids))
    assert set(worker.active) == {task_id for _, task_id in busy}


# --- ends ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def mortal(workers):
    """A worker that the test may end, with a running task: its process and name, the task's name and id."""
    queue = str(uuid4())
    name, task_id = workers.send("wait", queue)
    process = workers.start(queue, "prefork", "-c", "1", "--prefetch-multiplier", "2")
    identity, reported, _ = workers.wait_for(name).split()
    assert reported == "True", (
        "its task waited before it did: the first report is written before the first task is taken"
    )
    next_report(queue, holds(task_id))
    yield process, identity, name, task_id
    process.kill()


def named(identity, now=None):
    """The worker of that name, as it is judged at `now`."""
    found = load_workers("default", now or clock.now("default"))
    return next(worker for worker in found if worker.name == identity)


def test_warm_shutdown_is_announced_and_names_the_task_until_its_end(workers, mortal):
    process, identity, name, task_id = mortal
    process.send_signal(signal.SIGTERM)
    first = wait_until(lambda: (worker := named(identity)).draining and worker, what="it drains")
    later = wait_until(lambda: (worker := named(identity)).listed_at > first.listed_at and worker, what="it reports on")
    for worker in (first, later):
        assert worker.queues == set()
        assert set(worker.active) == {task_id}
        assert worker.ended_at is None
        assert worker.alive is True
    workers.release(name)
    assert process.wait(processes.PATIENCE) == 0
    last = named(identity)
    assert last.alive is False
    assert last.draining is True
    assert last.held == frozenset()
    assert last.ended_at == last.seen_at
    assert report_of("prefork").alive, "the twin of that hostname lives"


def test_last_report_of_a_cold_shutdown_names_interrupted_tasks(workers, mortal):
    process, identity, _, task_id = mortal
    _, waiting_id = workers.send("wait", next(iter(named(identity).queues)))
    wait_until(lambda: waiting_id in named(identity).held, what="the second task is reserved")
    process.send_signal(signal.SIGQUIT)
    process.wait(processes.PATIENCE)
    last = named(identity)
    assert last.alive is False
    assert last.draining is True
    assert last.held == {task_id, waiting_id}
    assert last.ended_at == last.seen_at


def test_killed_worker_is_dead_once_its_session_is_gone_for_8s(mortal):
    process, identity, _, task_id = mortal
    process.kill()
    process.wait()
    last = named(identity)
    wait_until(lambda: not named(identity, last.seen_at + 9 * SECOND).alive, what="its session is gone")
    dead = named(identity, last.seen_at + 9 * SECOND)
    assert named(identity, last.seen_at + 8 * SECOND).alive
    assert dead.draining is False
    assert dead.ended_at is None
    assert set(dead.active) == {task_id}


def test_stopped_worker_is_dead_after_12s_and_alive_when_it_goes_on(workers):
    identity = next_report("solo").name
    processes.halt(workers.processes["solo"].pid)
    try:
        last = named(identity)
        assert named(identity, last.seen_at + 12 * SECOND).alive, "its session is there"
        assert not named(identity, last.seen_at + 13 * SECOND).alive
    finally:
        workers.processes["solo"].send_signal(signal.SIGCONT)
    assert wait_until(lambda: (worker := named(identity)).seen_at > last.seen_at and worker, what="it goes on").alive


# --- the database -------------------------------------------------------------------------------------------------


@pytest.mark.fault("the database ends a worker's session")
def test_worker_whose_session_was_ended_reconnects_and_is_never_dead(workers):
    worker = next_report("threads")
    row = WorkerHeartbeat.objects.filter(incarnation=worker.incarnation)
    pid = row.get().backend_pid

    def has_a_new_one():
        assert report_of("threads").alive
        return row.get().backend_pid not in (None, pid)

    with workers.listening("threads") as log:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
        wait_until(has_a_new_one, what="a new session")
        assert report_of("threads").since == worker.since
        assert "cannot report" not in log()


@pytest.mark.fault("the database does not answer a worker")
def test_hanging_database_stops_only_the_heartbeats_until_it_is_back(workers):
    before = next_report("prefork")
    with workers.listening("prefork") as log:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("LOCK TABLE reaper_workerheartbeat IN ACCESS EXCLUSIVE MODE")
            wait_until(lambda: "cannot report to the reaper" in log(), what="it gives up")
            name, _ = workers.send("touch", "prefork")
            workers.wait_for(name, "ended")
        after = next_report("prefork")
        wait_until(lambda: "reports to the reaper again" in log(), what="it says so")
        assert log().count("cannot report") == 1
    assert after.seen_at - before.seen_at > SECOND
    assert after.name == before.name
    assert after.alive is True
    assert after.complete is True
