"""`make latency`: kill real workers repeatedly, with default thresholds and schedule, and time the recovery.

It needs an empty PostgreSQL and an empty Redis, named by DATABASE_URL and CELERY_BROKER_URL: `make latency` makes both
and throws them away. Times run from the SIGKILL to the observation that finds the host's row failed or requeued.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import django

from tools.common import ExitStatus, Interrupts, environment, has_empty_servers, has_server_addresses
from tools.latency import bars
from tools.processes import ProcessGroup

# How long starting everything may take, and each kill with its recovery, before the measurement is given up.
START_SECONDS = 150
KILL_SECONDS = 30


def main(arguments: list[str]) -> int:
    """Measure and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.latency", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="how many workers are killed (20)")
    options = parser.parse_args(arguments)
    if options.kills < 1:
        parser.error("--kills must be at least 1")
    if not has_server_addresses("latency"):
        return ExitStatus.USAGE
    folder = Path(tempfile.mkdtemp(prefix="reaper-latency-"))
    status: int = ExitStatus.FAILED
    try:
        status = measure(folder, options.kills)
    except KeyboardInterrupt:
        print("latency: interrupted; all its processes are stopped")
        status = ExitStatus.INTERRUPTED
    finally:
        if status != ExitStatus.FAILED:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"Logs: {folder}", file=sys.stderr)
    return status


def measure(folder: Path, kills: int) -> int:
    """Start everything, kill workers, stop everything, print the figures; return the exit status."""
    interrupts = Interrupts()
    os.environ.update(default_environment(folder))
    django.setup()
    from django.core.management import call_command

    from tools.latency.bench import Bench
    from tools.watch import TimedOut, Watch

    if not has_empty_servers("latency"):
        return ExitStatus.USAGE
    call_command("migrate", verbosity=0)
    processes = ProcessGroup(folder, os.environ)
    end = time.time() + START_SECONDS + kills * KILL_SECONDS
    watch = Watch(folder / "journal.jsonl", end=end, check=interrupts.check)
    bench = Bench(processes, watch)
    problems = []
    try:
        bench.play(kills)
    except TimedOut as error:
        problems.append(str(error))
    finally:
        processes.stop()
        bench.close()
    wrong = watch.final_judgement()
    watch.close()
    if left := processes.descendants():
        problems.append(f"{len(left)} processes could not be stopped")
    return conclude(bench, kills, wrong, problems)


def default_environment(folder: Path) -> dict[str, str]:
    """Return the environment of all processes, without any threshold that the shell may have exported."""
    for name in list(os.environ):
        if name.startswith(("REAPER_", "CRAWL_")) and name != "REAPER_STATE":
            del os.environ[name]
    return environment(folder, LOG_LEVEL="WARNING")


def conclude(bench: Any, kills: int, wrong: int, problems: list[str]) -> int:
    """Print the figures and each bar that was missed; return the exit status."""
    others = bench.others()
    for name, seconds in others.items():
        print(f"{name}: " + ("not recovered" if seconds is None else f"{seconds:.1f} s"))
    problems += bars.missed(bench.recoveries(), kills, others, wrong)
    for problem in problems:
        print(f"missed: {problem}")
    print(bars.last_line(bench.recoveries(), wrong))
    return ExitStatus.FAILED if problems else ExitStatus.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
