"""How wrong reaps are detected, as cases before and after."""

from dataclasses import dataclass, field

import pytest

from tools.journal import Event
from tools.wrong_reaps import Observation, Run, WrongReap, refused, taken_alive

TASK, NEXT = "task-1", "task-2"
RUNNING, PENDING = Run("running", TASK), Run("pending", TASK)
# Any process; the observations are at 100 s and 101 s.
PID = 7


def event(what, at=50.0, *, pid=PID, task_id=TASK, why=""):
    return Event(what, at, pid, "run", task_id, why=why)


CLAIMED = event("claimed")
ENDING = event("ending", 100.5)


@dataclass(frozen=True)
class World:
    """One run before and after, and the evidence."""

    before: Run
    after: Run | None
    journal: list = field(default_factory=list)
    alive: frozenset = frozenset({PID})
    waiting: frozenset = frozenset()

    def wrongly_reaped(self):
        rows = {} if self.after is None else {"run": self.after}
        before = Observation(100.0, {"run": self.before}, self.alive, self.waiting)
        return list(taken_alive(before, Observation(101.0, rows), self.journal))


WRONG = {
    "failed while its process worked": World(RUNNING, Run("failed", TASK), [CLAIMED]),
    "requeued while its process worked": World(RUNNING, Run("pending", NEXT), [CLAIMED]),
    "requeued and claimed again while its process worked": World(RUNNING, Run("running", NEXT), [CLAIMED]),
    "completed by somebody else": World(RUNNING, Run("completed", TASK), [CLAIMED]),
    "deleted while its process worked": World(RUNNING, None, [CLAIMED]),
    "claimed and failed between two observations": World(
        PENDING, Run("failed", TASK), [event("claimed", 100.2)], alive=frozenset()
    ),
    "failed while its process worked, which had another run before": World(
        RUNNING, Run("failed", TASK), [event("claimed", 40.0, task_id="earlier"), CLAIMED]
    ),
    "requeued while its message was waiting": World(PENDING, Run("pending", NEXT), waiting=frozenset({TASK})),
    "failed while its message was waiting": World(PENDING, Run("failed", TASK), waiting=frozenset({TASK})),
    "another task released its run, not its own": World(
        RUNNING, Run("failed", TASK), [CLAIMED, event("ending", 100.5, task_id="other")]
    ),
}

RIGHT = {
    "nothing changed": World(RUNNING, RUNNING, [CLAIMED]),
    "claimed by its own task": World(PENDING, RUNNING, [CLAIMED], waiting=frozenset({TASK})),
    "completed by its own task": World(RUNNING, Run("completed", TASK), [CLAIMED, ENDING]),
    "claimed and completed between two observations": World(
        PENDING, Run("completed", TASK), [event("claimed", 100.2), ENDING], waiting=frozenset({TASK})
    ),
    "released by its own task for a new attempt": World(RUNNING, Run("pending", NEXT), [CLAIMED, ENDING]),
    "failed after its process was killed": World(RUNNING, Run("failed", TASK), [CLAIMED], alive=frozenset()),
    "failed after its process went on to another run": World(
        RUNNING, Run("failed", TASK), [CLAIMED, event("claimed", 90.0, task_id="later")]
    ),
    "requeued after its message was lost": World(PENDING, Run("pending", NEXT)),
    "requeued after its message was lost, beside another's": World(
        PENDING, Run("pending", NEXT), waiting=frozenset({"other"})
    ),
    "dispatched for the first time": World(Run("pending"), PENDING),
    "a parent, which has no task, was finalized": World(Run("running"), Run("completed")),
    "had ended already": World(Run("failed", TASK), Run("pending", NEXT), [CLAIMED]),
}


@pytest.mark.parametrize("name", WRONG)
def test_run_taken_from_a_live_task_is_a_wrong_reap(name):
    assert [(found.run, found.task_id) for found in WRONG[name].wrongly_reaped()] == [("run", TASK)]


@pytest.mark.parametrize("name", RIGHT)
def test_rightful_change_is_no_wrong_reap(name):
    assert RIGHT[name].wrongly_reaped() == []


def test_wrong_reap_names_the_sign_of_life():
    assert WRONG["failed while its process worked"].wrongly_reaped() == [
        WrongReap("run", TASK, "process 7 was working on it")
    ]


@pytest.mark.parametrize(
    "journal",
    [
        [CLAIMED, event("refused", why="progress of CrawlJob run by task task-1")],
        [CLAIMED, ENDING, event("refused", why="complete of CrawlJob run by task task-1")],
        [event("refused", why="claim of CrawlJob run by task task-1")],
    ],
    ids=["late progress", "late end", "late start"],
)
def test_task_refused_its_own_run_reveals_a_wrong_reap(journal):
    assert [(found.run, found.task_id) for found in refused(journal)] == [("run", TASK)]


@pytest.mark.parametrize(
    "journal",
    [
        [],
        [CLAIMED, ENDING],
        [CLAIMED, event("refused", pid=8, why="claim of CrawlJob run by task task-1")],
        # The one that won the race may be the later to write its line.
        [event("refused", pid=8, why="claim of CrawlJob run by task task-1"), CLAIMED],
    ],
    ids=["nothing happened", "all well", "second copy", "second copy, written first"],
)
def test_refused_second_copy_of_a_message_is_no_wrong_reap(journal):
    assert list(refused(journal)) == []
