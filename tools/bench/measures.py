"""The measurements. Each is repeated three times from the same state, and the best one counts."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import psutil
from django.conf import settings
from django.db import connection
from django.test import override_settings
from django.utils import timezone

from apps.sources.models import CrawlJob
from reaper.adapters import Message
from reaper.broker.connection import Broker
from reaper.conf import settings as conf
from reaper.core.facts import Phase
from reaper.models import Sweep
from reaper.sweeps.parents import finalize_parents
from reaper.sweeps.sweep import sweep
from tools.bench import tables

TIMES = 3


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds the work takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def best(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """Return the seconds of the fastest of three times; `before` is not counted."""
    return best_of_each([work], before)[0]


def best_of_each(works: Sequence[Callable[[], object]], before: Callable[[], object]) -> list[float]:
    """Return the best seconds of each work. They alternate, because a shared machine's speed changes by the minute."""
    rounds = []
    for _ in range(TIMES):
        took = []
        for work in works:
            before()
            took.append(timed(work))
        rounds.append(took)
    return [min(times) for times in zip(*rounds, strict=True)]


def sweep_all() -> list[Sweep]:
    """Sweep everything once, as the schedules do."""
    rows = [finalize_parents(adapter) for adapter in conf.adapters().values()]
    phases = (Phase.RUNNING, Phase.QUEUED)
    return rows + [sweep(adapter, phase) for adapter in conf.adapters().values() for phase in phases]


def sweep_running() -> Sweep:
    """Sweep the running jobs. Raise AssertionError if it had errors: then the measurement is void."""
    row = sweep(conf.adapters()["crawl_job"], Phase.RUNNING)
    assert not row.errors, row.errors
    return row


def sweep_until_done() -> int:
    """Sweep the running jobs until nothing is left to be done; return how many were acted on."""
    acted = 0
    while (row := sweep_running()).acted:
        acted += row.acted
    return acted


def empty_sweep() -> tuple[float, float]:
    """Return, with nothing stuck, the milliseconds of one sweep's queries and those of sweeping everything."""
    tables.stick(0)
    sweep_all()
    took = []
    for _ in range(10):
        with connection.execute_wrapper(queries := Stopwatch()):
            sweep_running()
        took.append(queries.seconds * 1000)
    return min(took), min(timed(sweep_all) for _ in range(10)) * 1000


class Stopwatch:
    """The seconds that the SELECT queries take; writing the sweep's own row does not count."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, execute: Callable, sql: str, *rest: object) -> object:
        """Time one query (an `execute_wrapper`)."""
        begin = time.perf_counter()
        try:
            return execute(sql, *rest)
        finally:
            self.seconds += time.perf_counter() - begin if sql.startswith("SELECT") else 0.0


def reap(rows: int) -> float:
    """Return the seconds of failing so many orphans, each with its evidence and its row in the ledger."""
    return best(lambda: fail_all(rows), lambda: tables.stick(rows))


def reap_and_update(rows: int) -> list[float]:
    """Return the same, and the seconds of one UPDATE of the same rows."""
    return best_of_each([lambda: fail_all(rows), lambda: update_all(rows)], lambda: tables.stick(rows))


def fail_all(rows: int) -> None:
    """Sweep until all are failed."""
    assert sweep_until_done() == rows


def update_all(rows: int) -> None:
    """Mark them failed by one statement, and do nothing else."""
    assert tables.run(tables.BARE) == rows


def naive_loop(rows: int) -> float:
    """Return the seconds of getting, changing and saving each of the rows by itself, once."""
    tables.stick(rows)
    pks = list(CrawlJob.objects.filter(status="running").values_list("pk", flat=True))

    def work() -> None:
        for pk in pks:
            job = CrawlJob.objects.get(pk=pk)
            job.status, job.completed_at = "failed", timezone.now()
            job.error_code, job.error_message = "orphaned", "Its worker died."
            job.save()

    return timed(work)


def requeue(rows: int) -> tuple[float, float]:
    """Return the seconds of requeuing so many orphans: without publishing, and in total."""
    took, ours, publishing = [], Broker.publish, 0.0

    def publish(broker: Broker, task: str, message: Message, task_id: str) -> None:
        nonlocal publishing
        # To a queue without a consumer: thousands of refused tasks would keep a worker busy in the next measurement.
        elsewhere = message._replace(options={**message.options, "queue": "bench"})
        publishing += timed(lambda: ours(broker, task, elsewhere, task_id))

    with setting(ON_ORPHAN="requeue"), mock.patch.object(Broker, "publish", publish):
        for _ in range(TIMES):
            tables.stick(rows)
            publishing = 0.0
            whole = timed(sweep_until_done)
            took.append((whole - publishing, whole))
    return min(took)


def memory(rows: int) -> float:
    """Return by how many MB the process grows while it fails so many orphans."""
    tables.stick(rows)
    before = psutil.Process().memory_info().rss
    sweep_until_done()
    return (psutil.Process().memory_info().rss - before) / 1e6


def publishing(messages: int) -> float:
    """Return how many messages a second the broker is given."""

    def work() -> None:
        with Broker() as broker:
            for number in range(messages):
                broker.publish("bench.nothing", Message(options={"queue": "bench"}), f"task {number}")

    return messages / best(work)


def revoking(tasks: int) -> float:
    """Return the milliseconds of revoking so many tasks."""

    def work() -> None:
        with Broker() as broker:
            broker.revoke([f"task {number}" for number in range(tasks)])

    return best(work) * 1000


def leave(rows: int) -> float:
    """Return the seconds of a sweep that leaves this many runs alone because nothing is known about them."""

    def work() -> None:
        row = sweep_running()
        assert (row.acted, row.counts) == (0, {"inconclusive": rows})

    return best(work, lambda: tables.stick(rows, worker="celery@stranger/abc"))


def locked_row(rows: int) -> float:
    """Return by how many seconds a row locked by another session delays all the others."""
    free = reap(rows)
    return min(reap_beside_a_lock(rows) for _ in range(TIMES)) - free


def reap_beside_a_lock(rows: int) -> float:
    """Return the seconds of failing so many orphans but one, which another session has locked."""
    tables.stick(rows)
    with beside() as other, other.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT 1 FROM crawl_jobs WHERE status = 'running' LIMIT 1 FOR UPDATE")
        took = timed(sweep_until_done)
        left = CrawlJob.objects.filter(status="running").count()
        cursor.execute("ROLLBACK")
    assert left == 1, f"{left} were left"
    return took


@contextmanager
def beside() -> Iterator:
    """Yield a second connection, which any thread may use, without Django around it."""
    other = connection.get_new_connection(connection.get_connection_params())
    other.autocommit = True
    try:
        yield other
    finally:
        other.close()


@contextmanager
def setting(**values: object) -> Iterator[None]:
    """Override these of the reaper's settings."""
    with override_settings(REAPER={**settings.REAPER, **values}):
        yield
