"""What became of the runs. Pure: no I/O, no clock.

The witnesses are the tasks' own journal, what the database noted of every change of a status (`transitions`), and when
which process was stopped. Of the ledger only what it says that it took from whom: it is the accused.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from apps.sources.outcomes import outcome
from tools.journal import ENDED, Event

BY_ABSENCE = ("orphaned", "lost", "stranded")
# A process that was stopped within so many seconds before may rightly have been taken for dead: the silence limit, and
# the time that a sweep takes.
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
    """A run as it is in the end. `children`: the statuses of a parent's children."""

    status: str
    task_id: str = ""
    message: str = ""
    children: Sequence[str] | None = None


class Stop(NamedTuple):
    """A process could not do anything from a moment to another."""

    pid: int
    begin: float
    end: float


@dataclass
class Story:
    """Everything that is known."""

    rows: Mapping[str, Row] = field(default_factory=dict)
    transitions: Sequence[Transition] = ()
    events: Sequence[Event] = ()
    reaps: Sequence[Reap] = ()
    stops: Sequence[Stop] = ()
    # What a run may be requeued at most: as (requeues, redispatches, interruptions).
    budgets: tuple[int, int, int] = (3, 5, 10)


def verdicts(story: Story) -> dict[str, list[str]]:
    """Return what is wrong, by its name: each a sentence per run."""
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
    """Yield the runs that were taken, because nobody had their task, from one that was there all the time.

    A task that was there shows it afterwards: it comes to its end, or is refused its next write, or its claim. The
    claim only where the run waited for it: of a running run it is refused to whoever got a copy of the message that
    had been claimed already.
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
    """Whether the process had been stopped shortly before the moment."""
    return stop.begin <= at and stop.end >= at - SILENT_SECONDS


def overwritten(story: Story) -> Iterator[str]:
    """Yield the runs that changed after their end, and those that were completed by a task that was not theirs."""
    yield from (f"{each.run} was {each.was} and became {each.now}" for each in story.transitions if each.was in ENDED)
    completing = {(each.run, each.task_id) for each in story.events if each.write == "complete"}
    for run, row in story.rows.items():
        if row.children is None and row.status == "completed" and (run, row.task_id) not in completing:
            yield f"{run} is completed, and not by its task {row.task_id}"


def parents_wrong(story: Story) -> Iterator[str]:
    """Yield the parents that have not the outcome of their children."""
    for run, row in story.rows.items():
        if row.children is not None and (right := outcome(row.children)) != (row.status, row.message):
            yield f"{run} is {row.status} ({row.message}) and should be {right}"


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
    """Return how many runs were begun by more than one task: at least once is what is promised of those."""
    begun = {(each.run, each.task_id) for each in story.events if each.event == "claimed"}
    return sum(count > 1 for count in Counter(run for run, _ in begun).values())


def refused(story: Story) -> int:
    """Return how many late and doubled tasks were refused."""
    return sum(each.event == "refused" for each in story.events)
