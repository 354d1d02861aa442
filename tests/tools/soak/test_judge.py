"""The judge of the soak: it finds every violation that is planted, and nothing where there is none."""

from dataclasses import replace

import pytest

from tools.journal import Event
from tools.soak.judge import (
    SILENT_SECONDS,
    Reap,
    Row,
    Stop,
    Story,
    Transition,
    executed_twice,
    refused,
    verdicts,
)

CLAIM, ENDING = Event("claimed", 10, 7, "run", "t1"), Event("ending", 20, 7, "run", "t1", "complete")
REAP = Reap("run", "t1", 15, "fail", "orphaned", "running")
CLEAN = Story(
    rows={"run": Row("completed", "t1"), "parent": Row("completed", children=("completed", "completed"))},
    transitions=[Transition("run", "pending", "running"), Transition("run", "running", "completed")],
    events=[CLAIM, ENDING],
)


def found(**changes):
    """What is wrong in the clean story with these changes, as a set of names."""
    return {name for name, sentences in verdicts(replace(CLEAN, **changes)).items() if sentences}


def test_in_a_clean_story_nothing_is_found():
    assert found() == set()


@pytest.mark.parametrize("status", ["pending", "running", "paused", "from-a-newer-version"])
def test_what_never_ends_is_lost(status):
    assert found(rows={"run": Row(status, "t1")}) == {"lost"}


def test_a_second_end_is_found():
    assert found(transitions=[Transition("run", "running", "failed"), Transition("run", "running", "completed")]) == {
        "finalized twice"
    }


def test_a_change_after_the_end_is_found():
    assert found(transitions=[Transition("run", "failed", "running")]) == {"overwritten"}


def test_an_end_by_a_task_that_is_not_the_runs_own_is_found():
    assert found(rows={"run": Row("completed", "t2")}) == {"overwritten"}


@pytest.mark.parametrize("event", [ENDING, Event("refused", 20, 7, "run", "t1", why="progress of …")])
def test_a_run_that_was_taken_from_a_task_that_was_there_is_found(event):
    assert found(reaps=[REAP], events=[CLAIM, ENDING, event]) == {"wrongly reaped"}


@pytest.mark.parametrize(
    ("reap", "stops"),
    [
        (REAP._replace(reason="timed_out"), []),
        (REAP._replace(at=21), []),
        (REAP, [Stop(7, 1, 18)]),
        (REAP._replace(at=10 + SILENT_SECONDS), [Stop(7, 1, 10)]),
    ],
    ids=["by time", "after its end", "from one that was stopped", "just after it was stopped"],
)
def test_a_run_that_was_taken_rightly_is_no_violation(reap, stops):
    late = Event("refused", 60, 7, "run", "t1")
    events = [CLAIM, ENDING] if reap.at == 21 else [CLAIM, ENDING, late]
    assert found(reaps=[reap], stops=stops, events=events) == set()


COPY = Event("refused", 20, 8, "run", "t1", why="claim of CrawlJob run by task t1")


def test_a_copy_of_its_message_that_comes_late_does_not_show_that_a_running_run_was_worked_on():
    assert "wrongly reaped" not in found(reaps=[REAP], events=[CLAIM, COPY])
    assert "wrongly reaped" in found(reaps=[REAP], events=[CLAIM, COPY, ENDING])


def test_a_claim_that_is_refused_shows_that_a_waiting_run_had_its_message():
    taken = REAP._replace(reason="lost", phase="queued", action="requeue")
    assert "wrongly reaped" in found(reaps=[taken], events=[COPY])


@pytest.mark.parametrize("stop", [Stop(8, 1, 18), Stop(7, 16, 30), Stop(7, 1, 15 - SILENT_SECONDS - 1)])
def test_a_stop_of_another_process_or_time_excuses_nothing(stop):
    assert found(reaps=[REAP], stops=[stop]) == {"wrongly reaped"}


@pytest.mark.parametrize(
    "row",
    [Row("failed", children=("completed",)), Row("running", children=("completed",)), Row("completed", children=())],
)
def test_a_parent_with_another_outcome_than_its_childrens_is_found(row):
    assert "parents wrong" in found(rows={"parent": row})


@pytest.mark.parametrize(
    ("phase", "interrupted", "budget"), [("running", False, 3), ("queued", False, 5), ("running", True, 10)]
)
def test_one_requeue_more_than_allowed_is_found(phase, interrupted, budget):
    reap = Reap("run", "t0", 5, "requeue", "orphaned", phase, interrupted)
    assert found(reaps=[reap] * budget) == set()
    assert found(reaps=[reap] * (budget + 1)) == {"over budget"}


def test_what_was_begun_by_two_tasks_is_counted_and_no_violation():
    events = [CLAIM, ENDING, CLAIM._replace(task_id="t2"), Event("refused", 30, 9, "run", "t0")]
    story = replace(CLEAN, events=events)
    assert (executed_twice(story), refused(story), found(events=events)) == (1, 1, set())
    assert executed_twice(replace(CLEAN, events=[CLAIM, CLAIM])) == 0
