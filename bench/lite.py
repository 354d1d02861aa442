"""The same on SQLite, in a process of its own: a process has one database."""

import os
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

# Jobs that have ended, in the same table.
ENDED = 20_000


def measured(rows: int) -> float:
    """Return how many times longer failing so many jobs takes than one UPDATE of them, in another process."""
    with tempfile.TemporaryDirectory(prefix="reaper-bench-") as folder:
        database = {"DATABASE_URL": f"sqlite:///{Path(folder) / 'bench.sqlite3'}"}
        words = [sys.executable, "-m", "bench.lite", str(rows)]
        return float(subprocess.check_output(words, env={**os.environ, **database}, text=True))


def main(rows: int) -> float:
    """Make the table, and return the ratio."""
    import django

    django.setup()
    from django.conf import settings
    from django.core.management import call_command

    settings.DEBUG = False
    call_command("migrate", verbosity=0)
    from apps.sources.models import CrawlJob, Source
    from bench.measures import best_of_each, sweep_until_done
    from bench.tables import BARE, release, run
    from reaper.models import LedgerEntry

    source = Source.objects.create(name="source", url="http://site/")
    began = source.created_at - timedelta(hours=2)
    jobs = [CrawlJob(source=source, status="completed", created_at=began, started_at=began) for _ in range(ENDED)]
    stuck = [CrawlJob(source=source, created_at=began, task_id=f"task {number}") for number in range(rows)]
    CrawlJob.objects.bulk_create([*jobs, *stuck])

    release()

    def stick() -> None:
        CrawlJob.objects.exclude(task_id="").update(status="running", started_at=began, completed_at=None)
        LedgerEntry.objects.all().delete()

    def reap() -> None:
        assert sweep_until_done() == rows

    def bare() -> None:
        assert run(BARE.replace("now()", "datetime('now')")) == rows

    took, alone = best_of_each([reap, bare], stick)
    return took / alone


if __name__ == "__main__":
    print(main(int(sys.argv[1])))
