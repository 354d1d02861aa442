"""A Celery app for live tests, whose tasks do what a test says: wait for a file, compute, retry. Nothing is crawled."""

import os
import time
from pathlib import Path

from celery import Celery
from celery.signals import worker_init

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("workload")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.task_routes = {}
FOLDER = Path(os.environ.get("WORKLOAD_FOLDER", "/nowhere"))


def identity() -> str:
    """The name of the worker that this runs in. The app is made before Django is set up, which the reaper needs."""
    from reaper.workers.identity import worker_name

    return worker_name()


@worker_init.connect
def hurry(**_) -> None:
    """Report more often than a worker does, so that the tests need not wait for it."""
    from reaper.workers import timing

    timing.REPORT_INTERVAL_S = 0.2
    timing.WRITE_TIMEOUT_S = 1


def is_reported() -> bool:
    """Whether this worker has a report already."""
    from reaper.models import WorkerHeartbeat

    hostname, _, incarnation = identity().rpartition("/")
    return WorkerHeartbeat.objects.filter(hostname=hostname, incarnation=incarnation).exists()


def note(name: str, text: str = "") -> None:
    """Tell the test something: by a file, whole or not there."""
    half = FOLDER / f"{name}.half"
    half.write_text(text)
    half.rename(FOLDER / name)


@app.task(bind=True)
def wait(self, name: str) -> None:
    """Say who runs it, then wait until the test lets it go."""
    note(f"{name}.began", f"{identity()} {is_reported()} {os.getpid()}")
    while not (FOLDER / f"{name}.go").exists():
        time.sleep(0.02)
    note(f"{name}.ended")


@app.task
def touch(name: str) -> None:
    """End at once."""
    note(f"{name}.ended")


@app.task(rate_limit="1/h")
def limited(name: str) -> None:
    """Once an hour."""
    note(f"{name}.ended")


@app.task
def compute(name: str) -> None:
    """Use the processor without a pause, until the test lets it go: no other greenlet runs during that time."""
    note(f"{name}.began", identity())
    while not (FOLDER / f"{name}.go").exists():
        sum(range(10_000))
    note(f"{name}.ended")


@app.task(bind=True, max_retries=1)
def again(self, name: str) -> None:
    """The first time: ask for a retry, which keeps the id, and linger. The second time: end at once."""
    if self.request.retries:
        note(f"{name}.again")
    else:
        self.retry(countdown=0, throw=False)
        wait.run(name)
