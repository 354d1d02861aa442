"""`make bench`: measures the product against its bars and writes docs/BENCHMARKS.md.

It needs an empty PostgreSQL and an empty Redis, named by DATABASE_URL and CELERY_BROKER_URL: `make bench` makes both
and throws them away.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import django

from tools import commands
from tools.bench import bars
from tools.bench.bars import Figure
from tools.common import ExitStatus, environment, has_empty_servers, has_server_addresses, interrupt_on_sigterm
from tools.processes import ProcessGroup


def main(arguments: list[str]) -> int:
    """Measure and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.add_argument(
        "--profile", choices=("small", "full"), default="full", help="small: two minutes; full: 20 minutes"
    )
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where the figures go")
    options = parser.parse_args(arguments)
    if not has_server_addresses("bench"):
        return ExitStatus.USAGE
    interrupt_on_sigterm()
    folder = Path(tempfile.mkdtemp(prefix="reaper-bench-"))
    try:
        os.environ |= environment(folder, LOG_LEVEL="ERROR", CRAWL_JOURNAL="")
        django.setup()
        if not has_empty_servers("bench"):
            return ExitStatus.USAGE
        figures = measure(folder, options.profile)
    except KeyboardInterrupt:
        print("bench: interrupted; all its processes are stopped")
        return ExitStatus.INTERRUPTED
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    write(figures, options.profile, options.json)
    return conclude(figures)


def measure(folder: Path, profile: str) -> list[Figure]:
    """Return every figure of the profile, each printed when it is known."""
    from django.conf import settings
    from django.core.management import call_command

    from tools.bench import tables
    from tools.bench.figures import PROFILES, iter_figures

    # In debug mode Django keeps every query.
    settings.DEBUG = False
    call_command("migrate", verbosity=0)
    tables.release()
    figures = []
    processes = ProcessGroup(folder, os.environ)
    try:
        processes.start("idle", commands.crawler("idle"))
        await_witness(processes)
        for figure in iter_figures(PROFILES[profile], processes):
            figures.append(figure)
            print(figure.line, flush=True)
    finally:
        processes.stop()
    return figures


def write(figures: list[Figure], profile: str, path: Path) -> None:
    """Write the figures as JSON, and after a full measurement docs/BENCHMARKS.md."""
    facts = machine()
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{**figure._asdict(), "missed": figure.missed} for figure in figures]
    path.write_text(json.dumps({"profile": profile, "environment": facts, "figures": rows}, indent=1))
    if profile == "full":
        from tools.bench import report

        Path("docs/BENCHMARKS.md").write_text(report.text(figures, facts))


def conclude(figures: list[Figure]) -> int:
    """Print the bars that were missed and how many; return the exit status."""
    for figure in figures:
        if figure.missed:
            print(f"missed: {figure.line}")
    print(bars.last_line(figures))
    return ExitStatus.FAILED if any(figure.missed for figure in figures) else ExitStatus.OK


def await_witness(processes: ProcessGroup) -> None:
    """Wait until the idle worker has been reporting for long enough to find that another one is dead."""
    from reaper.models import WorkerHeartbeat
    from reaper.workers.timing import DEAD_AFTER

    end = time.monotonic() + 120
    while not any(report.seen_at - report.since > DEAD_AFTER for report in WorkerHeartbeat.objects.all()):
        if processes.ended() or time.monotonic() > end:
            raise SystemExit("\n".join(processes.tails()["idle"]))
        time.sleep(0.2)


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    import platform

    import celery
    import psutil
    from django.db import connection

    with connection.cursor() as cursor:
        settings = {}
        for name in ("server_version", "autovacuum", "fsync", "synchronous_commit", "shared_buffers"):
            cursor.execute(f"SHOW {name}")
            settings[name] = cursor.fetchone()[0]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processors": psutil.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "python": platform.python_version(),
        "django": django.__version__,
        "celery": celery.__version__,
        "postgresql": settings,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
