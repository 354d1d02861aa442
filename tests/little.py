"""A little Celery project without Django, and its workers: for what only needs somebody who works."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

from celery import Celery

from tests import processes

app = Celery("little", broker=os.environ.get("CELERY_BROKER_URL"), set_as_current=False)
app.conf.update(task_default_queue="little", broker_connection_retry_on_startup=True, worker_prefetch_multiplier=2)


@app.task(name="little.hold")
def hold(path: str) -> None:
    """Work until the file is there, at most a minute."""
    deadline = time.monotonic() + 60
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.05)


@contextmanager
def worker(name: str, url: str, log: Path, *options: str) -> Iterator[Popen]:
    """A worker `name@test` that consumes the queue of its name and has said that it is ready."""
    words = [sys.executable, "-m", "celery", "-A", "tests.little", "worker", "-n", f"{name}@test", "-Q", name]
    options = ("-c", "1", "-l", "INFO", *options)
    process = processes.start(*words, *options, log=log, environment={"CELERY_BROKER_URL": url})

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()
        return f"{name}@test ready." in log.read_text()

    try:
        processes.wait_until(is_ready, 60, f"the worker is ready, see {log}")
        yield process
    finally:
        processes.end(process)
