"""`make soak`: run short crawls under faults for minutes, let the service recover, and count violations.

It needs an empty PostgreSQL and an empty Redis, named by DATABASE_URL and CELERY_BROKER_URL: `make soak` makes both and
throws them away. Exits with 1 when a run was lost, finalized twice, wrongly reaped, overwritten or requeued beyond its
budget, when a parent has a wrong outcome, and when too few faults happened for a meaningful result.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import django

from tools.common import (
    ExitStatus,
    environment,
    has_empty_servers,
    has_server_addresses,
    interrupt_on_sigterm,
    prepare_database,
)
from tools.processes import ProcessGroup

# Runs that are running or waiting at a time: about what the workers do in half a minute.
LOAD = 40
# Between one fault and the next.
FAULT_SECONDS = (5, 10)
SWEEP_SECONDS = 5
DRAIN_SECONDS = 300
# Per minute; fewer make the result meaningless.
LEAST = {"faults": 5, "reaped": 3, "refused": 1}


def main(arguments: list[str]) -> int:
    """Soak and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5, help="how long faults are injected (5)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the same faults in the same order")
    parser.add_argument("--json", type=Path, default=Path("build/soak.json"), help="where the figures go")
    options = parser.parse_args(arguments)
    if not has_server_addresses("soak"):
        return ExitStatus.USAGE
    interrupt_on_sigterm()
    folder = Path(tempfile.mkdtemp(prefix="reaper-soak-"))
    os.environ.update(soak_environment(folder))
    django.setup()
    if not has_empty_servers("soak"):
        return ExitStatus.USAGE
    try:
        found = soak(folder, options.seed, options.minutes)
    except KeyboardInterrupt:
        print("soak: interrupted; all its processes are stopped")
        return ExitStatus.INTERRUPTED
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"seed": options.seed, "minutes": options.minutes, **found}, indent=1))
    return conclude(found, options.minutes, folder)


def soak_environment(folder: Path) -> dict[str, str]:
    """Return the environment of all processes, with limits short enough for minutes."""
    return environment(
        folder,
        DJANGO_SETTINGS_MODULE="tools.soak.settings",
        LOG_LEVEL="WARNING",
        CRAWL_TIME_LIMIT="60",
        CRAWL_SOFT_TIME_LIMIT="0",
    )


def soak(folder: Path, seed: int, minutes: float) -> dict[str, Any]:
    """Run the service under faults, let it recover, and return the counts and what is wrong."""
    from tools.soak.run import Soak

    prepare_database(SWEEP_SECONDS)
    run = Soak(ProcessGroup(folder, os.environ), folder / "journal.jsonl", random.Random(seed))
    try:
        run.start()
        run.inject_faults(minutes * 60, FAULT_SECONDS, LOAD)
        run.drain(DRAIN_SECONDS)
    finally:
        run.stop()
    return run.findings()


def conclude(found: dict, minutes: float, folder: Path) -> int:
    """Print the findings and a last line with all counts; return the exit status."""
    counts, wrong = found["counts"], found["wrong"]
    for name, count in sorted(found["faults"].items()):
        print(f"  {count:4} times: {name}")
    for name, sentences in wrong.items():
        for sentence in sentences[:10]:
            print(f"{name}: {sentence}")
    too_few = [f"{name} {counts[name]}" for name, least in LEAST.items() if counts[name] < least * minutes]
    if too_few:
        print(f"vacuous: too little happened in {minutes:g} minutes: {', '.join(too_few)}")
    figures = {**counts, **{name: len(sentences) for name, sentences in wrong.items()}}
    print(f"soak: {', '.join(f'{name} {count}' for name, count in figures.items())}")
    if any(wrong.values()):
        print(f"The logs are in {folder}.")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return int(bool(too_few))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
