"""Decide whether a run was taken from a task that was alive. Pure: no I/O, no clock.

The evidence is the journal that the tasks write, the processes and messages that the tool itself observes, and the
host's rows. The reaper's own records are not evidence here.

A run was reaped when its row left `pending` or `running`, or got another task, although its task had not journalled
that it was ending or releasing the run. The reap was wrong when the task was alive at the observation before: its
process was alive and had claimed nothing else since, or its message was still in the broker. A task that is refused
its own run is proof of a wrong reap as well.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tools.journal import ENDED, UNFINISHED, Event


class Run(NamedTuple):
    """One row of the host's tables at one observation."""

    status: str
    task_id: str = ""
    worker: str = ""
    pages: int = 0
    finalized: bool = False

    @property
    def finished(self) -> bool:
        """Whether the row says that the run has ended."""
        return self.status in ENDED


class Observation(NamedTuple):
    """The state at one moment: the rows, read first, then the live processes and the waiting messages."""

    at: float
    """Seconds since the epoch."""
    runs: Mapping[str, Run] = {}
    """The rows by primary key."""
    alive: frozenset[int] = frozenset()
    """The pids of live processes that have claimed runs."""
    waiting: frozenset[str] = frozenset()
    """The ids of the tasks whose messages have not been started."""


class WrongReap(NamedTuple):
    """A run that was taken from this task while the task was alive."""

    run: str
    task_id: str
    why: str


def taken_alive(before: Observation, after: Observation, journal: Sequence[Event]) -> Iterator[WrongReap]:
    """Yield the runs taken from a live task between two observations. Read the journal after the second one."""
    for run, was in before.runs.items():
        now = after.runs.get(run, Run("gone"))
        if not was.task_id or was.status not in UNFINISHED or not taken(was, now) or has_released(was.task_id, journal):
            continue
        if why := sign_of_life(was.task_id, before, journal):
            yield WrongReap(run, was.task_id, why)


def taken(was: Run, now: Run) -> bool:
    """Return whether the run was taken from its task. An unfinished row with the same task was at most claimed."""
    return was.task_id != now.task_id or now.status not in UNFINISHED


def has_released(task_id: str, journal: Sequence[Event]) -> bool:
    """Return whether the task journalled that it would end or release its run, which it does before it writes."""
    return any(event.event == "ending" and event.task_id == task_id for event in journal)


def sign_of_life(task_id: str, observation: Observation, journal: Sequence[Event]) -> str:
    """Return the evidence that the task was alive at the observation; '' without any."""
    claims = [event for event in journal if event.event == "claimed" and event.task_id == task_id]
    if not claims:
        return "its message was waiting in the broker" if task_id in observation.waiting else ""
    claim = claims[-1]
    if claim.at >= observation.at:
        return "its task had only just claimed it"
    has_moved_on = any(
        event.event == "claimed" and event.pid == claim.pid and claim.at < event.at <= observation.at
        for event in journal
    )
    return f"process {claim.pid} was working on it" if claim.pid in observation.alive and not has_moved_on else ""


def refused(journal: Sequence[Event]) -> Iterator[WrongReap]:
    """Yield the runs whose task was refused because they no longer belonged to it.

    A refused claim of a run that the same task has claimed comes from a second copy of the message; it is not a reap.
    """
    claimed = {event.task_id for event in journal if event.event == "claimed"}
    for event in journal:
        second_copy = event.why.startswith("claim ") and event.task_id in claimed
        if event.event == "refused" and not second_copy:
            yield WrongReap(event.run, event.task_id, f"its task was refused: {event.why}")
