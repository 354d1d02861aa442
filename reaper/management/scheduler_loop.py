"""`manage.py reaper run`: the schedules in one process, where there is no Beat or no worker for the queue `reaper`."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta

from django.db import close_old_connections
from django.utils.module_loading import import_string

from reaper.tasks import INTERVALS

logger = logging.getLogger(__name__)


def run(stop: threading.Event, every: Mapping[Callable[[], object], timedelta]) -> None:
    """Start each task whenever it is due, until `stop` is set. A task that fails does not end the loop.

    Tasks run one after the other: one that takes longer than its interval starts again at once, and never overlaps
    with itself.
    """
    due = dict.fromkeys(every, time.monotonic())
    while True:
        task, at = min(due.items(), key=lambda item: item[1])
        if stop.wait(max(0, at - time.monotonic())):
            return
        due[task] = time.monotonic() + every[task].total_seconds()
        perform(task)


def scheduled() -> dict[Callable[[], object], timedelta]:
    """Return the reaper's tasks, with how often each is due."""
    return {import_string(task): every for task, every in INTERVALS.items()}


def perform(task: Callable[[], object]) -> None:
    """Run one task; log an exception. Broken database connections are closed, so that the next task gets a new one."""
    try:
        close_old_connections()
        task()
    except Exception:
        logger.exception("%s failed", getattr(task, "name", task))


def stopped_by_signals() -> threading.Event:
    """Return an event that SIGTERM or SIGINT sets; the current task is finished before the loop ends."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
