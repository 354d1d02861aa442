"""The measurement on SQLite, in a process of its own, because a process has one database."""

import os
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

# Jobs that have ended, in the same table.
ENDED = 20_000


def measured(rows: int) -> float:
    """Return how many times longer failing so many jobs takes than one UPDATE of them, in another process."""
    with tempfile.TemporaryDirectory(prefix="reaper-bench-") as folder:
        database = {"DATABASE_URL": f"sqlite:///{Path(folder) / 'bench.sqlite3'}"}
        words = [sys.executable, "-m", "tools.bench.lite", str(rows)]
        return float(subprocess.check_output(words, env={**os.environ, **database}, text=True))


def main(rows: int) -> float:
    """Create the table, and return the ratio."""
    import django

    django.setup()
    from django.conf import settings
    from django.core.management import call_command

    # In debug mode Django keeps every query.
    settings.DEBUG = False
    call_command("migrate", verbosity=0)
    return compare(rows)


def compare(rows: int) -> float:
    """Return the seconds of failing so many stuck jobs, divided by those of one UPDATE of them."""
    from apps.sources.models import CrawlJob
    from reaper.models import LedgerEntry
    from tools.bench.measures import best_of_each, sweep_until_done
    from tools.bench.tables import BARE, release, run

    began = create_jobs(rows)
    release()

    def stick() -> None:
        CrawlJob.objects.exclude(task_id="").update(status="running", started_at=began, completed_at=None)
        LedgerEntry.objects.all().delete()

    def reap() -> None:
        assert sweep_until_done() == rows

    def update() -> None:
        assert run(BARE.replace("now()", "datetime('now')")) == rows

    took, bare = best_of_each([reap, update], stick)
    return took / bare


def create_jobs(rows: int) -> datetime:
    """Create `ENDED` jobs that have ended and so many with a task; return when all of them began."""
    from apps.sources.models import CrawlJob, Source

    source = Source.objects.create(name="source", url="http://site/")
    began = source.created_at - timedelta(hours=2)
    jobs = [CrawlJob(source=source, status="completed", created_at=began, started_at=began) for _ in range(ENDED)]
    stuck = [CrawlJob(source=source, created_at=began, task_id=f"task {number}") for number in range(rows)]
    CrawlJob.objects.bulk_create([*jobs, *stuck])
    return began


if __name__ == "__main__":
    print(main(int(sys.argv[1])))
