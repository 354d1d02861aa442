"""`make bench`: measures the product against its bars and writes docs/BENCHMARKS.md.

It needs an empty PostgreSQL and an empty Redis, named by DATABASE_URL and CELERY_BROKER_URL: `make bench` makes both
and throws them away.
"""

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import django

from bench import bars, peers
from bench.bars import Figure
from demo import stack as commands
from demo.stack import Stack

USAGE, INTERRUPTED = 2, 130


@dataclass(frozen=True)
class Profile:
    """How much is measured."""

    sizes: tuple[int, ...]
    stuck: int
    many: int


PROFILES = {
    "small": Profile((1_000, 100_000), 2_000, 5_000),
    "full": Profile((1_000, 1_000_000, 10_000_000), 10_000, 100_000),
}


def main(arguments: list[str]) -> int:
    """Measure and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--profile", choices=PROFILES, default="full", help="small: one minute; full: 15 minutes")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where the figures go")
    options = parser.parse_args(arguments)
    for name in ("DATABASE_URL", "CELERY_BROKER_URL"):
        if not os.environ.get(name):
            print(f"{name} is not set: start this with `make bench`, which sets it.", file=sys.stderr)
            return USAGE
    # Whoever ends it ends what it has started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "config.settings", "DEBUG": "1", "SECRET_KEY": secrets.token_urlsafe(50),
        "LOG_LEVEL": "ERROR",
    }  # fmt: skip
    django.setup()
    from django.conf import settings
    from django.core.management import call_command

    from demo.__main__ import why_not_empty

    # Without DEBUG, which keeps every query; and without a limit to the runs that one sweep acts on.
    settings.DEBUG = False
    settings.REAPER = {**settings.REAPER, "MAX_ACTIONS": 10**9}
    if in_use := why_not_empty():
        print(f"Empty servers are needed, and {in_use}: start this with `make bench`.", file=sys.stderr)
        return USAGE
    call_command("migrate", verbosity=0)
    folder = Path(tempfile.mkdtemp(prefix="reaper-bench-"))
    stack = Stack(folder, os.environ)
    figures: list[Figure] = []
    try:
        for figure in measure(PROFILES[options.profile], stack):
            figures.append(figure)
            print(figure.line, flush=True)
    except KeyboardInterrupt:
        print("bench: interrupted; everything it had started is stopped")
        return INTERRUPTED
    finally:
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)
    facts = environment()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    said = [{**figure._asdict(), "missed": figure.missed} for figure in figures]
    options.json.write_text(json.dumps({"profile": options.profile, "environment": facts, "figures": said}, indent=1))
    if options.profile == "full":
        from bench import report

        Path("docs/BENCHMARKS.md").write_text(report.text(figures, facts))
    print(bars.last_line(figures))
    return int(any(figure.missed for figure in figures))


def measure(profile: Profile, stack: Stack) -> Iterator[Figure]:
    """Yield every figure, from the smallest table to the largest; the reaping is done in the largest."""
    from bench import measures, tables

    stack.start("idle", commands.crawler("idle"))
    await_witness(stack)
    empty = {}
    for rows in profile.sizes:
        tables.fill(rows)
        empty[rows], whole = measures.empty_sweep()
        is_largest = rows == profile.sizes[-1]
        yield Figure(
            f"all queries of a sweep of {rows:,} jobs, none stuck", empty[rows], "ms", 5 if is_largest else None
        )
        yield Figure(f"sweeps of both kinds and all phases, of {rows:,} jobs", whole, "ms")
    growth = empty[profile.sizes[-1]] / empty[profile.sizes[0]]
    yield Figure(f"the same, {profile.sizes[-1]:,} jobs against {profile.sizes[0]:,}", growth, "times", 2)

    few, many, is_full = profile.stuck, profile.many, profile.many >= 100_000
    bare, took = measures.bare_update(few), measures.reap(few)
    yield Figure(f"one UPDATE of {few:,} rows", bare, "s")
    yield Figure(f"fail {few:,} orphans, with evidence and ledger", took, "s")
    yield Figure(f"fail {few:,}, against one UPDATE", took / bare, "times", 3.5 if is_full else None)
    bare_many, took_many = measures.bare_update(many), measures.reap(many)
    yield Figure(f"fail {many:,}, against one UPDATE", took_many / bare_many, "times", 5 if is_full else None)
    yield Figure(f"fail {many:,}, seconds per 10,000", took_many / many * 10_000, "s")
    yield Figure(f"fail {many:,}, memory", measures.memory(many), "MB", 20)
    naive = measures.naive_loop(few)
    yield Figure("a loop of get, change, save, against the same", naive / took, "times", 15 if is_full else None, True)
    again, whole = measures.requeue(few)
    yield Figure(f"requeue {few:,} orphans", again, "s")
    yield Figure(f"requeue {few:,} orphans and publish their messages", whole, "s")
    yield from procrastinate(few, took, again, is_full=is_full)
    yield from measures.interference(many)
    yield Figure("delay of all by one locked row", measures.locked_row(few), "s", 0.5)
    yield Figure("messages published", measures.publishing(2_000), "per s")
    yield Figure("revoke 1,000 tasks", measures.revoking(1_000), "ms")


def procrastinate(jobs: int, fail: float, requeue: float, *, is_full: bool) -> Iterator[Figure]:
    """Yield how many times longer procrastinate's documented loop takes; nothing where it cannot be installed."""
    try:
        took = peers.rescue(dsn(), jobs)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"procrastinate {peers.VERSION} cannot be measured: {error}")
        return
    name = f"procrastinate {peers.VERSION}, {jobs:,} stalled jobs"
    yield Figure(f"{name}, failed, against ours", took["fail"] / fail, "times", 7 if is_full else None, True)
    yield Figure(f"{name}, retried, against ours", took["retry"] / requeue, "times", 5 if is_full else None, True)


def dsn() -> str:
    """Return the database's address as libpq has it."""
    from django.db import connection

    return connection.get_new_connection(connection.get_connection_params()).dsn


def await_witness(stack: Stack) -> None:
    """Wait until the idle worker has been reporting for long enough to tell that another one is dead."""
    from reaper.models import WorkerReport
    from reaper.workers import SILENCE

    end = time.monotonic() + 120
    while not any(report.seen_at - report.since > SILENCE for report in WorkerReport.objects.all()):
        if stack.died() or time.monotonic() > end:
            raise SystemExit("\n".join(stack.tails()["idle"]))
        time.sleep(0.2)


def environment() -> dict[str, Any]:
    """Return what the figures were measured on."""
    import platform

    import celery
    import psutil
    from django.db import connection

    with connection.cursor() as cursor:
        said = {}
        for name in ("server_version", "autovacuum", "fsync", "synchronous_commit", "shared_buffers"):
            cursor.execute(f"SHOW {name}")
            said[name] = cursor.fetchone()[0]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processors": psutil.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "python": platform.python_version(),
        "django": django.__version__,
        "celery": celery.__version__,
        "postgresql": said,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
