"""A minimal Celery project without Django, and its workers, for tests that only need a worker."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from subprocess import Popen

from celery import Celery

from tests import processes

app = Celery("minimal_project", broker=os.environ.get("CELERY_BROKER_URL"), set_as_current=False)
app.conf.update(
    task_default_queue="minimal_project", broker_connection_retry_on_startup=True, worker_prefetch_multiplier=2
)


@app.task(name="minimal_project.hold")
def hold(path: str) -> None:
    """Work until the file is there, at most two minutes."""
    deadline = time.monotonic() + 120
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.05)


@contextmanager
def workers(url: str, folder: Path, **pools: str) -> Iterator[dict[str, Popen]]:
    """Workers `name@test`, each with its kind of pool, that consume the queue of their name and are ready."""
    logs = {name: folder / f"{name}.log" for name in pools}
    started: dict[str, Popen] = {}

    def is_ready(name: str) -> bool:
        assert started[name].poll() is None, logs[name].read_text()
        return f"{name}@test ready." in logs[name].read_text()

    try:
        for name, pool in pools.items():
            words = [
                sys.executable,
                "-m",
                "celery",
                "-A",
                "tests.minimal_project",
                "worker",
                "-n",
                f"{name}@test",
                "-Q",
                name,
            ]
            words += ["-P", pool, "-c", "1", "-l", "INFO"]
            # Without Django's settings it is no worker of the project's, which would wait for a migrated database.
            environment = {"CELERY_BROKER_URL": url, "DJANGO_SETTINGS_MODULE": ""}
            started[name] = processes.start(*words, log=logs[name], environment=environment)
        for name in pools:
            processes.wait_until(partial(is_ready, name), what=f"the worker is ready, see {logs[name]}")
        yield started
    finally:
        for process in started.values():
            processes.end(process, patience=0)
