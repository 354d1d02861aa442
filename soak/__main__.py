"""`make soak`: short runs and faults for minutes, then peace, and the count of what should never happen.

It needs an empty PostgreSQL and an empty Redis, named by DATABASE_URL and CELERY_BROKER_URL: `make soak` makes both and
throws them away. Exits with 1 when anything was lost, ended twice, wrongly reaped, overwritten or over its budget, when
a parent has a wrong outcome, and when too little happened for that to say anything.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import django

from demo.__main__ import environment, prepare_database, why_not_empty
from demo.stack import Stack

USAGE, INTERRUPTED = 2, 130
# Runs that are under way or wait at a time: about what the workers do in half a minute.
LOAD = 40
FAULT_SECONDS = (5, 10)
DRAIN_SECONDS = 300
# Per minute; with less nothing was shown.
LEAST = {"faults": 5, "reaped": 3, "refused": 1}


def main(arguments: list[str]) -> int:
    """Soak and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5, help="how long things go wrong (5)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the same faults in the same order")
    parser.add_argument("--json", type=Path, default=Path("build/soak.json"), help="where the figures go")
    options = parser.parse_args(arguments)
    for name in ("DATABASE_URL", "CELERY_BROKER_URL"):
        if not os.environ.get(name):
            print(f"{name} is not set: start this with `make soak`, which sets it.", file=sys.stderr)
            return USAGE
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="reaper-soak-"))
    limits = {"DJANGO_SETTINGS_MODULE": "soak.settings", "CRAWL_TIME_LIMIT": "60", "LOG_LEVEL": "WARNING"}
    os.environ.update(environment(folder) | limits)
    django.setup()
    if in_use := why_not_empty():
        print(f"Empty servers are needed, and {in_use}: start this with `make soak`.", file=sys.stderr)
        return USAGE
    from soak.run import Soak

    prepare_database()
    soak = Soak(Stack(folder, os.environ), folder / "journal.jsonl", random.Random(options.seed))
    try:
        soak.start()
        soak.go_wrong(options.minutes * 60, FAULT_SECONDS, LOAD)
        soak.drain(DRAIN_SECONDS)
    except KeyboardInterrupt:
        print("soak: interrupted; everything it had started is stopped")
        return INTERRUPTED
    finally:
        soak.stop()
    found = soak.found()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"seed": options.seed, "minutes": options.minutes, **found}, indent=1))
    return conclude(found, options.minutes, folder)


def conclude(found: dict, minutes: float, folder: Path) -> int:
    """Print what was found, and say in one last line whether all is well."""
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
