"""The soak's judge finds each planted violation, and none in a clean run."""

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


def test_clean_story_has_no_violation():
    assert found() == set()


@pytest.mark.parametrize("status", ["pending", "running", "paused", "from-a-newer-version"])
def test_unfinished_run_is_lost(status):
    assert found(rows={"run": Row(status, "t1")}) == {"lost"}


def test_second_final_transition_is_a_violation():
    assert found(transitions=[Transition("run", "running", "failed"), Transition("run", "running", "completed")]) == {
        "finalized twice"
    }


def test_transition_after_the_end_is_a_violation():
    assert found(transitions=[Transition("run", "failed", "running")]) == {"overwritten"}


def test_completion_by_another_task_is_a_violation():
    assert found(rows={"run": Row("completed", "t2")}) == {"overwritten"}


@pytest.mark.parametrize("event", [ENDING, Event("refused", 20, 7, "run", "t1", why="progress of …")])
def test_reap_of_a_working_task_is_a_violation(event):
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
def test_rightful_reap_is_no_violation(reap, stops):
    late = Event("refused", 60, 7, "run", "t1")
    events = [CLAIM, ENDING] if reap.at == 21 else [CLAIM, ENDING, late]
    assert found(reaps=[reap], stops=stops, events=events) == set()


COPY = Event("refused", 20, 8, "run", "t1", why="claim of CrawlJob run by task t1")


def test_refused_claim_is_no_proof_that_a_running_run_was_worked_on():
    assert "wrongly reaped" not in found(reaps=[REAP], events=[CLAIM, COPY])
    assert "wrongly reaped" in found(reaps=[REAP], events=[CLAIM, COPY, ENDING])


def test_refused_claim_proves_that_a_queued_run_had_its_message():
    taken = REAP._replace(reason="lost", phase="queued", action="requeue")
    assert "wrongly reaped" in found(reaps=[taken], events=[COPY])


@pytest.mark.parametrize("stop", [Stop(8, 1, 18), Stop(7, 16, 30), Stop(7, 1, 15 - SILENT_SECONDS - 1)])
def test_stop_of_another_process_or_time_excuses_no_reap(stop):
    assert found(reaps=[REAP], stops=[stop]) == {"wrongly reaped"}


@pytest.mark.parametrize(
    "row",
    [Row("failed", children=("completed",)), Row("running", children=("completed",)), Row("completed", children=())],
)
def test_parent_that_contradicts_its_children_is_a_violation(row):
    assert "parents wrong" in found(rows={"parent": row})


@pytest.mark.parametrize(
    ("phase", "interrupted", "budget"), [("running", False, 3), ("queued", False, 5), ("running", True, 10)]
)
def test_requeue_above_the_budget_is_a_violation(phase, interrupted, budget):
    reap = Reap("run", "t0", 5, "requeue", "orphaned", phase, interrupted)
    assert found(reaps=[reap] * budget) == set()
    assert found(reaps=[reap] * (budget + 1)) == {"over budget"}


def test_run_claimed_by_two_tasks_is_counted_without_violation():
    events = [CLAIM, ENDING, CLAIM._replace(task_id="t2"), Event("refused", 30, 9, "run", "t0")]
    story = replace(CLEAN, events=events)
    assert executed_twice(story) == 1
    assert refused(story) == 1
    assert found(events=events) == set()
    assert executed_twice(replace(CLEAN, events=[CLAIM, CLAIM])) == 0
