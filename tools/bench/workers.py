"""What a worker pays: for its run's writes, for its reports, and while its runs are reaped."""

import json
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
from django.db import connection

from apps.sources import claims
from apps.sources.models import CrawlJob
from tools.bench import tables
from tools.bench.bars import Figure
from tools.bench.measures import beside, sweep_until_done, timed

# Runs that are worked on at once, and how often each reports its progress.
AT_WORK, PROGRESS = 40, 5
# How long an idle worker is watched, in seconds.
WATCHED = 15
HOT = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'crawl_jobs'"


def interference(
    dsn: str, rows: int, how: str = "", *, p99: float | None = None, longest: float | None = None
) -> Iterator[Figure]:
    """Yield how long another process' writes to the same rows take while all of them are reaped, and to other rows."""
    tables.stick(rows)
    with writer(dsn) as ended:
        assert sweep_until_done()
        took, others = map(sorted, ended())
    name = f"a worker's write while {rows:,} are reaped{', ' * bool(how)}{how}"
    yield Figure(f"{name}, median", took[len(took) // 2], "ms")
    yield Figure(f"{name}, p99", took[int(len(took) * 0.99)], "ms", p99)
    yield Figure(f"{name}, longest", took[-1], "ms", longest)
    yield Figure(f"{name}, longest to a run that is not", others[-1], "ms")


@contextmanager
def writer(dsn: str) -> Iterator[Callable[[], tuple[list[float], list[float]]]]:
    """Have another process write; the function that is yielded ends it and returns the milliseconds of its writes."""
    words = [sys.executable, "-m", "tools.bench.writer", dsn]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield lambda: json.loads(process.communicate(timeout=60)[0])


def overhead(rows: int) -> Iterator[Figure]:
    """Yield what claim, progress and completion cost a run, against one UPDATE that is committed by itself."""
    tables.stick(rows)
    tables.run("UPDATE crawl_jobs SET status = 'pending', worker = '' WHERE status = 'running'")
    waiting = list(CrawlJob.objects.filter(status="pending").values_list("pk", "task_id"))
    yield Figure("one UPDATE, committed by itself", timed(lambda: alone([pk for pk, _ in waiting])) / rows * 1e6, "µs")
    took: Counter[str] = Counter()
    for start in range(0, rows, AT_WORK):
        took += work(waiting[start : start + AT_WORK])
    for name in ("claim", "progress", "completion"):
        yield Figure(f"a run's {name}", took[name] / rows * 1e6, "µs")
    yield Figure("writes of progress that touch no index (HOT)", 100 * took["hot"] / took["written"], "%")


def work(waiting: Sequence[tuple[uuid.UUID, str]]) -> Counter[str]:
    """Work on these jobs at once; return the seconds of each write, and how many rows progress has touched."""
    holds: list[claims.Claim] = []
    claim = timed(lambda: holds.extend(claims.claim(CrawlJob, *each, "celery@w/abc") for each in waiting))
    before = updates()
    progress = timed(lambda: [hold.progress({"pages": pages}) for pages in range(PROGRESS) for hold in holds])
    written, hot = (now - then for now, then in zip(updates(), before, strict=True))
    completion = timed(lambda: [hold.complete({"pages": PROGRESS}) for hold in holds])
    seconds: dict[str, Any] = {"claim": claim, "progress": progress / PROGRESS, "completion": completion}
    return Counter(seconds | {"written": written, "hot": hot})


def alone(pks: list[uuid.UUID]) -> None:
    """Touch each row by a plain statement."""
    with beside() as other, other.cursor() as cursor:
        for pk in pks:
            cursor.execute("UPDATE crawl_jobs SET heartbeat_at = now() WHERE id = %s", [pk])


def updates() -> tuple[int, int]:
    """Return how many rows of the jobs' table were ever updated, and how many of them without touching an index."""
    with connection.cursor() as cursor:
        # Flushes this session's counts at the end of this statement.
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute(HOT)
        return cursor.fetchone()


def idle_share(pid: int) -> float:
    """Return the share of a processor that an idle worker with its children uses for its reports."""
    group = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]

    def used() -> float:
        return sum(each.cpu_times().user + each.cpu_times().system for each in group)

    before, began = used(), time.monotonic()
    time.sleep(WATCHED)
    return (used() - before) / (time.monotonic() - began)
