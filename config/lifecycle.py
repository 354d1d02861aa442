"""What workers and Beat do besides their work: wait for the database at their start, and show that they are alive."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config import health

logger = logging.getLogger(__name__)

WAIT_SECONDS = 3


def wait_for_database() -> None:
    """Return when the database is reachable and migrated; until then log what is missing.

    A worker that took a message before that would lose it.
    """
    with ended_by_signals():
        while problem := health.TimedProbe("database", health.database_problem).get():
            logger.warning("Waiting for the database, asked every %s s. %s", WAIT_SECONDS, problem)
            time.sleep(WAIT_SECONDS)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let signals end the process: Beat's own handler would ask for the very scheduler that is being waited for."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show_alive() -> None:
    """Touch the file that ALIVE_FILE names, for a health check that starts no Python.

    A worker's event loop does so every 2 s while it is connected to its broker, Beat after each of its rounds.
    """
    if file := os.environ.get("ALIVE_FILE"):
        try:
            Path(file).touch()
        except OSError as error:  # the health check tells of it as well; the work goes on
            logger.warning("ALIVE_FILE cannot be touched: %s", error.strerror)
