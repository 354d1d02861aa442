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
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import django

from bench import bars
from bench.bars import Figure
from demo import stack as commands
from demo.stack import Stack

USAGE, INTERRUPTED = 2, 130


def main(arguments: list[str]) -> int:
    """Measure and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--profile", choices=("small", "full"), default="full", help="small: two minutes; full: 20 minutes"
    )
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

    from bench import tables
    from bench.figures import PROFILES, measure
    from demo.__main__ import why_not_empty

    # Which keeps every query.
    settings.DEBUG = False
    if in_use := why_not_empty():
        print(f"Empty servers are needed, and {in_use}: start this with `make bench`.", file=sys.stderr)
        return USAGE
    call_command("migrate", verbosity=0)
    tables.release()
    folder = Path(tempfile.mkdtemp(prefix="reaper-bench-"))
    stack = Stack(folder, os.environ)
    figures: list[Figure] = []
    try:
        stack.start("idle", commands.crawler("idle"))
        await_witness(stack)
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
    for figure in figures:
        if figure.missed:
            print(f"missed: {figure.line}")
    print(bars.last_line(figures))
    return int(any(figure.missed for figure in figures))


def await_witness(stack: Stack) -> None:
    """Wait until the idle worker has been reporting for long enough to tell that another one is dead."""
    from reaper.models import WorkerHeartbeat
    from reaper.workers.registry import DEAD_AFTER

    end = time.monotonic() + 120
    while not any(report.seen_at - report.since > DEAD_AFTER for report in WorkerHeartbeat.objects.all()):
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
