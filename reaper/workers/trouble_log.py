"""Log a lasting failure when it begins and when it is over, instead of every 3 s."""

import logging
from typing import NamedTuple

from reaper.core.formatting import one_line
from reaper.workers.identity import worker_name

logger = logging.getLogger(__name__)


class Trouble(NamedTuple):
    """A kind of failure, in the words that follow the worker's name in the log."""

    begins: str
    """When it starts, such as "cannot report to the reaper"."""
    ends: str
    """When it is over, such as "reports to the reaper again"."""


class TroubleLog:
    """Remembers which troubles last, so that each is logged once."""

    def __init__(self) -> None:
        self._lasting: set[Trouble] = set()

    def log_trouble(self, trouble: Trouble, error: Exception | None) -> None:
        """Log the trouble when it begins; with None for an error, log that it is over, if it lasted until now."""
        if error and trouble not in self._lasting:
            self._lasting.add(trouble)
            reason = one_line(str(error).strip())
            logger.warning("%s %s: %s: %s", worker_name(), trouble.begins, type(error).__name__, reason)
        elif not error and trouble in self._lasting:
            self._lasting.discard(trouble)
            logger.warning("%s %s", worker_name(), trouble.ends)
