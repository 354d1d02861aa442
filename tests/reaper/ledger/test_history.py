"""What the ledger makes of a run's past."""

from dataclasses import replace

import pytest

from apps.sources.reaping import SourceResults
from reaper.core.decisions import decide
from reaper.core.facts import History
from reaper.core.policy import Action
from reaper.ledger.history import apply_row, entries_of_run, find_undoable_end, with_history
from tests.factories import HOUR, MINUTE, NOW
from tests.reaper.core.cases import DEAD, REPEATS, queued, running
from tests.reaper.ledger.entries import ADAPTER, LATER, RUN, SENT, entry, past

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("entries", "history"),
    [
        pytest.param([], History(), id="nothing"),
        pytest.param([SENT], History(redispatches=1, last_action_at=NOW), id="a redispatch"),
        pytest.param([{**SENT, "phase": "running"}], History(requeues=1, last_action_at=NOW), id="a requeue"),
        pytest.param(
            [{**SENT, "phase": "running", "interrupted": True}],
            History(interruptions=1, last_action_at=NOW),
            id="an interruption is no requeue",
        ),
        pytest.param(
            [{**SENT, "interrupted": True}], History(redispatches=1, last_action_at=NOW), id="it had not even started"
        ),
        pytest.param(
            [
                SENT,
                {**SENT, "phase": "running"},
                {**SENT, "phase": "running", "interrupted": True},
                {**SENT, "created_at": LATER},
            ],
            History(requeues=1, redispatches=2, interruptions=1, last_action_at=LATER),
            id="several",
        ),
        pytest.param(
            [{"action": "fail", "phase": "running", "interrupted": True}], History(), id="a fail is no interruption"
        ),
        pytest.param(
            [{**SENT, "phase": "running", "interrupted": True}, {**SENT, "actor": "ada"}],
            History(),
            id="interrupted, then manual",
        ),
        pytest.param(
            [{"new": "t2"}],
            History(redispatches=1, last_action_at=NOW, unpublished_task_id="t2", unpublished_at=NOW),
            id="unpublished",
        ),
        pytest.param(
            [{"new": "t2"}, SENT], History(redispatches=2, last_action_at=NOW), id="unpublished, but a later one was"
        ),
        pytest.param([{"action": "fail"}], History(), id="a fail is no requeue"),
        pytest.param([{"action": "close"}], History(), id="a close is no requeue"),
        pytest.param(
            [{"new": "t2"}, {"action": "fail"}],
            History(redispatches=1, last_action_at=NOW, unpublished_task_id="t2", unpublished_at=NOW),
            id="a fail changes nothing",
        ),
        pytest.param(
            [SENT, {**SENT, "action": "dispatch", "actor": "manual dispatch"}], History(), id="a dispatch by hand"
        ),
        pytest.param([SENT, {**SENT, "actor": "ada"}], History(), id="a manual requeue"),
        pytest.param(
            [SENT, {"new": "t3", "actor": "ada"}],
            History(unpublished_task_id="t3", unpublished_at=NOW),
            id="manual, unpublished",
        ),
        pytest.param([SENT, {"action": "fail", "actor": "ada"}], History(), id="a manual fail"),
        pytest.param(
            [SENT, SENT, {**SENT, "actor": "ada"}, {**SENT, "created_at": LATER}],
            History(redispatches=1, last_action_at=LATER),
            id="counted since the last manual action",
        ),
    ],
)
def test_history_is_counted_from_entries(entries, history):
    for each in entries:
        entry(**each)
    assert past() == history


def test_dry_run_entries_are_no_history():
    entry(applied=False, phase="running", **SENT)
    assert past() == History()


@pytest.mark.parametrize(("later", "is_undoable"), [({"applied": False}, True), ({"actor": "ada"}, False)])
def test_end_is_undoable_until_a_later_action(later, is_undoable):
    end = entry(action="fail")
    entry(**later)
    assert find_undoable_end(ADAPTER, "7") == (end if is_undoable else None)


def test_dry_run_entry_is_no_undoable_end():
    entry(action="fail", applied=False)
    assert find_undoable_end(ADAPTER, "7") is None


def test_history_counts_only_the_runs_own_entries():
    entry(run="8")
    entry(kind="source_result")
    entry(kind="crawl_job.parent")
    assert past() == History()
    assert past("8").redispatches == 1
    assert past("7", SourceResults()).redispatches == 1


def test_history_of_many_runs_needs_one_query(django_assert_num_queries):
    for pk in range(20):
        entry(run=str(pk))
    many = [replace(RUN, pk=str(pk)) for pk in range(30)]
    with django_assert_num_queries(1):
        found = with_history(ADAPTER, many)
    assert [run.pk for run in found] == [run.pk for run in many]
    assert sum(run.history.redispatches for run in found) == 20


@pytest.mark.parametrize(
    ("phase", "interrupted", "most"), [("running", False, 3), ("running", True, 10), ("queued", False, 5)]
)
def test_run_is_requeued_within_budget_and_then_poison(phase, interrupted, most):
    run = running(HOUR, started_at=NOW) if phase == "running" else queued(HOUR, task_id="", queued_at=None)
    evidence, policy = replace(DEAD, shutdown_announced=interrupted), replace(REPEATS, backoff=())
    past, fates = History(), []
    while len(fates) < 20 and (not fates or fates[-1].action is Action.REQUEUE):
        fates.append(decide(replace(run, history=past), evidence, policy, NOW + MINUTE))
        row = {"action": fates[-1].action, "phase": run.phase, "interrupted": fates[-1].interrupted}
        past = apply_row(past, {"created_at": NOW, "actor": "", "new_task_id": "t2", "published_at": NOW, **row})
    assert [fate.action for fate in fates] == [Action.REQUEUE] * most + [Action.FAIL]
    assert fates[-1].code == "poison"


def test_entries_of_run_are_newest_first():
    rows = [entry(), entry(action="fail")]
    entry(run="8")
    assert list(entries_of_run(ADAPTER, "7")) == rows[::-1]
