"""The journal of the tasks: each task appends what it does to one file, a JSON object a line (`CRAWL_JOURNAL`).

The tools judge the reaper by it, because it does not depend on the reaper.
"""

import json
from pathlib import Path
from typing import NamedTuple

# The final statuses of the host's rows.
ENDED = ("completed", "failed", "cancelled", "skipped")
UNFINISHED = ("pending", "running")


class Event(NamedTuple):
    """One line of the journal."""

    event: str
    """`claimed`, `ending` (about to end or release its run) or `refused` (its run was no longer its own)."""
    at: float
    """Seconds since the epoch, by the clock of the task's machine."""
    pid: int
    run: str
    task_id: str
    write: str = ""
    """What an `ending` task is about to write: `complete`, `fail`, `release`."""
    why: str = ""
    """What a `refused` task had tried."""


class Journal:
    """Reads the journal while tasks are appending to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_to = 0

    def read_new(self) -> list[Event]:
        """Return the events since the last call; a line that is only half written is left for the next one."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            text, _, _ = file.read().rpartition(b"\n")
        self._read_to += len(text) + 1 if text else 0
        return [parse(line) for line in text.splitlines()]


def parse(line: bytes) -> Event:
    """Return a line's event; fields that only the host needs are left out."""
    entry = json.loads(line)
    return Event(**{name: entry[name] for name in Event._fields if name in entry})
