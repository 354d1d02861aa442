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
    """Start each task whenever it is due, until `stop` is set. Nothing that goes wrong in one of them ends it.

    One after the other: what takes longer than its interval is started again at once, and never twice at the same time.
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
    """Do one task; an exception is logged. A connection that broke is given up, so that the next one works again."""
    try:
        close_old_connections()
        task()
    except Exception:
        logger.exception("%s failed", getattr(task, "name", task))


def stopped_by_signals() -> threading.Event:
    """Return an event that is set by SIGTERM or SIGINT: the task that is under way is done to its end before."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
