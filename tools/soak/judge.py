"""Judge what became of the runs. Pure: no I/O, no clock.

The evidence is the tasks' own journal, the database's record of every change of a status (`transitions`), and when each
process was stopped. The ledger only says which runs were taken from which tasks: the reaper is what is judged.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from apps.sources.outcomes import outcome
from tools.journal import ENDED, Event

BY_ABSENCE = ("orphaned", "lost", "stranded")
# A process that was stopped up to this many seconds before may rightly be taken for dead: the silence limit plus the
# time of a sweep.
SILENT_SECONDS = 40


class Transition(NamedTuple):
    """A run's status changed."""

    run: str
    was: str
    now: str


class Reap(NamedTuple):
    """The reaper took a run from a task."""

    run: str
    task_id: str
    at: float
    action: str
    reason: str
    phase: str
    interrupted: bool = False


class Row(NamedTuple):
    """A run at the end. `children`: the statuses of a parent's children."""

    status: str
    task_id: str = ""
    message: str = ""
    children: Sequence[str] | None = None


class Stop(NamedTuple):
    """A process was stopped (SIGSTOP) from `begin` to `end`."""

    pid: int
    begin: float
    end: float


@dataclass
class Story:
    """Everything that is known about one soak."""

    rows: Mapping[str, Row] = field(default_factory=dict)
    transitions: Sequence[Transition] = ()
    events: Sequence[Event] = ()
    reaps: Sequence[Reap] = ()
    stops: Sequence[Stop] = ()
    budgets: tuple[int, int, int] = (3, 5, 10)
    """How often a run may be requeued: (requeues, redispatches, interruptions)."""


def verdicts(story: Story) -> dict[str, list[str]]:
    """Return the violations by kind, a sentence per run."""
    return {
        "lost": list(lost(story)),
        "finalized twice": list(twice(story)),
        "wrongly reaped": list(wrongly_reaped(story)),
        "overwritten": list(overwritten(story)),
        "parents wrong": list(parents_wrong(story)),
        "over budget": list(over_budget(story)),
    }


def lost(story: Story) -> Iterator[str]:
    """Yield the runs that never ended."""
    for run, row in story.rows.items():
        if row.status not in ENDED:
            yield f"{run} is {row.status} in the end"


def twice(story: Story) -> Iterator[str]:
    """Yield the runs that ended more than once."""
    ends = Counter(each.run for each in story.transitions if each.now in ENDED)
    yield from (f"{run} ended {count} times" for run, count in ends.items() if count > 1)


def wrongly_reaped(story: Story) -> Iterator[str]:
    """Yield the runs that were taken as orphaned from a task that still existed.

    Such a task shows it afterwards: it ends, or its next write or its claim is refused. A refused claim counts only
    while the run was queued: that of a running run comes from a second copy of the message.
    """
    for reap in story.reaps:
        if reap.reason not in BY_ABSENCE:
            continue
        for event in story.events:
            if event.task_id != reap.task_id or event.at <= reap.at or event.event not in ("ending", "refused"):
                continue
            if reap.phase == "running" and event.why.startswith("claim of "):
                continue
            if not any(stop.pid == event.pid and overlaps(stop, reap.at) for stop in story.stops):
                yield f"{reap.run} was taken as {reap.reason} from {reap.task_id}: then {event.event} {event.why}"
                break


def overlaps(stop: Stop, at: float) -> bool:
    """Return whether the process was stopped shortly before this moment."""
    return stop.begin <= at and stop.end >= at - SILENT_SECONDS


def overwritten(story: Story) -> Iterator[str]:
    """Yield the runs that changed after their end or were completed by another task than their own."""
    yield from (f"{each.run} was {each.was} and became {each.now}" for each in story.transitions if each.was in ENDED)
    completing = {(each.run, each.task_id) for each in story.events if each.write == "complete"}
    for run, row in story.rows.items():
        if row.children is None and row.status == "completed" and (run, row.task_id) not in completing:
            yield f"{run} is completed, and not by its task {row.task_id}"


def parents_wrong(story: Story) -> Iterator[str]:
    """Yield the parents whose outcome contradicts their children."""
    for run, row in story.rows.items():
        if row.children is not None and (expected := outcome(row.children)) != (row.status, row.message):
            yield f"{run} is {row.status} ({row.message}) and should be {expected}"


def over_budget(story: Story) -> Iterator[str]:
    """Yield the runs that were requeued more often than they may be."""
    counts: Counter[tuple[str, int]] = Counter()
    for each in story.reaps:
        if each.action == "requeue":
            counts[each.run, 1 if each.phase == "queued" else 2 if each.interrupted else 0] += 1
    for (run, which), count in counts.items():
        if count > story.budgets[which]:
            yield f"{run} was requeued {count} times, which is more than {story.budgets[which]}"


def executed_twice(story: Story) -> int:
    """Return how many runs more than one task began; execution is promised at least once, so that is no violation."""
    begun = {(each.run, each.task_id) for each in story.events if each.event == "claimed"}
    return sum(count > 1 for count in Counter(run for run, _ in begun).values())


def refused(story: Story) -> int:
    """Return how many late and duplicate tasks were refused."""
    return sum(each.event == "refused" for each in story.events)
