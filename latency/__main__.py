"""`make latency`: kills real workers again and again, with default thresholds and schedule, and times the recovery.

It needs an empty PostgreSQL and an empty Redis, named by DATABASE_URL and CELERY_BROKER_URL: `make latency` makes both
and throws them away. Time runs from the SIGKILL to the look that finds the host's row failed or requeued.
"""

import argparse
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

from demo.stack import Stack
from latency import bars

INTERRUPTED, USAGE = 130, 2
START_SECONDS, KILL_SECONDS = 150, 30


def main(arguments: list[str]) -> int:
    """Measure and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m latency", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="how many workers are killed (20)")
    options = parser.parse_args(arguments)
    if options.kills < 1:
        parser.error("--kills must be at least 1")
    for name in ("DATABASE_URL", "CELERY_BROKER_URL"):
        if not os.environ.get(name):
            print(f"{name} is not set: start this with `make latency`, which sets it.", file=sys.stderr)
            return USAGE
    folder = Path(tempfile.mkdtemp(prefix="reaper-latency-"))
    status = 1
    try:
        status = measure(folder, options.kills)
    except KeyboardInterrupt:
        print("latency: interrupted; everything it had started is stopped")
        status = INTERRUPTED
    finally:
        if status in (0, INTERRUPTED, USAGE):
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"Logs: {folder}", file=sys.stderr)
    return status


def measure(folder: Path, kills: int) -> int:
    """Start everything, kill, stop everything, tell."""
    interrupted: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda caught, _frame: interrupted.append(caught))

    def check() -> None:
        # Where a signal ends it: never in the middle of a start, of which nobody would know afterwards.
        if interrupted:
            raise KeyboardInterrupt

    os.environ.update(environment(folder))
    django.setup()
    from django.core.management import call_command

    from demo.__main__ import why_not_empty
    from demo.watch import Impossible, Watch
    from latency.bench import Bench

    if in_use := why_not_empty():
        print(f"Empty servers are needed, and {in_use}: start this with `make latency`.", file=sys.stderr)
        return USAGE
    call_command("migrate", verbosity=0)
    stack = Stack(folder, os.environ)
    watch = Watch(folder / "journal.jsonl", end=time.time() + START_SECONDS + kills * KILL_SECONDS, check=check)
    bench = Bench(stack, watch)
    stuck = ""
    try:
        bench.play(kills)
    except Impossible as error:
        stuck = str(error)
    finally:
        stack.stop()
        bench.close()
    wrong = watch.final_judgement()
    watch.close()
    left = len(stack.descendants())
    problems = [stuck] * bool(stuck) + [f"{left} processes could not be stopped"] * bool(left)
    return conclude(bench, kills, wrong, problems)


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of all processes: the shell's, without any threshold in it."""
    for name in [name for name in os.environ if name.startswith(("REAPER_", "CRAWL_")) and name != "REAPER_STATE"]:
        del os.environ[name]
    return os.environ | {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "DEBUG": "1",
        "SECRET_KEY": secrets.token_urlsafe(50),
        "LOG_LEVEL": "WARNING",
        "PYTHONUNBUFFERED": "1",
        "CRAWL_ALLOW_PRIVATE": "1",
        "CRAWL_JOURNAL": str(folder / "journal.jsonl"),
    }


def conclude(bench: Any, kills: int, wrong: int, problems: list[str]) -> int:
    """Print the figures and each bar that was missed; return the exit status."""
    others = bench.others()
    for name, seconds in others.items():
        print(f"{name}: " + ("not recovered" if seconds is None else f"{seconds:.1f} s"))
    problems += bars.missed(bench.recoveries(), kills, others, wrong)
    for problem in problems:
        print(f"missed: {problem}")
    print(bars.last_line(bench.recoveries(), wrong))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
