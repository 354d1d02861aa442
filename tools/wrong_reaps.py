"""Was a run taken from a task that was alive? Every rule of the demo's judgement; pure: no I/O, no clock.

The witnesses are the journal that the tasks write, the processes and messages seen with one's own eyes, and the host's
rows. What the reaper says of itself is no evidence here.

A run is reaped when its row leaves `pending` or `running`, or is given another task, without its task having noted
that it lets go. That was wrong when, at the last look before, the task was alive: its process lived and had claimed
nothing else since, or its message was still in the broker. And a task that was refused its own run tells of it itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tools.journal import ENDED, UNFINISHED, Event


class Run(NamedTuple):
    """One row of the host's tables, as it was read."""

    status: str
    task_id: str = ""
    worker: str = ""
    pages: int = 0
    finalized: bool = False

    @property
    def finished(self) -> bool:
        """Whether the row says that the run has ended."""
        return self.status in ENDED


class Look(NamedTuple):
    """What was seen at one moment: first the rows, then which tasks' processes lived and which messages waited."""

    at: float
    runs: Mapping[str, Run] = {}
    alive: frozenset[int] = frozenset()
    waiting: frozenset[str] = frozenset()


class WrongReap(NamedTuple):
    """A run that was taken from this task while the task was alive."""

    run: str
    task_id: str
    why: str


def taken_alive(before: Look, after: Look, journal: Sequence[Event]) -> Iterator[WrongReap]:
    """Yield the runs that were taken from a living task between two looks. The journal is read after the second one."""
    for run, was in before.runs.items():
        now = after.runs.get(run, Run("gone"))
        if not was.task_id or was.status not in UNFINISHED or not taken(was, now) or let_go(was.task_id, journal):
            continue
        if why := sign_of_life(was.task_id, before, journal):
            yield WrongReap(run, was.task_id, why)


def taken(was: Run, now: Run) -> bool:
    """Whether the row left its task's hands: an unfinished row that keeps its task has at most been claimed by it."""
    return was.task_id != now.task_id or now.status not in UNFINISHED


def let_go(task_id: str, journal: Sequence[Event]) -> bool:
    """Whether the task noted that it was about to end or release its run; it does so before it writes."""
    return any(event.event == "ending" and event.task_id == task_id for event in journal)


def sign_of_life(task_id: str, look: Look, journal: Sequence[Event]) -> str:
    """Return how the task showed that it was alive at the look; '' when it was not."""
    claims = [event for event in journal if event.event == "claimed" and event.task_id == task_id]
    if not claims:
        return "its message was waiting in the broker" if task_id in look.waiting else ""
    claim = claims[-1]
    if claim.at >= look.at:
        return "its task had only just claimed it"
    went_on = any(
        event.event == "claimed" and event.pid == claim.pid and claim.at < event.at <= look.at for event in journal
    )
    return f"process {claim.pid} was working on it" if claim.pid in look.alive and not went_on else ""


def refused(journal: Sequence[Event]) -> Iterator[WrongReap]:
    """Yield the runs whose task came back and found that they were no longer its own.

    A claim that is refused although the same task has claimed the run is a second copy of one message, and no reap.
    """
    claimed = {event.task_id for event in journal if event.event == "claimed"}
    for event in journal:
        second_copy = event.why.startswith("claim ") and event.task_id in claimed
        if event.event == "refused" and not second_copy:
            yield WrongReap(event.run, event.task_id, f"its task was refused: {event.why}")
