"""The rules of a run that has started. No database."""

from dataclasses import replace

import pytest

from reaper.core.decisions import decide
from reaper.core.facts import Liveness
from reaper.core.policy import Action
from reaper.core.reasons import ABSENCE_REASONS
from tests.factories import NOW, SECOND
from tests.reaper.core.cases import (
    DAY,
    DEAD,
    EVERY,
    HOUR,
    KEPT,
    LET_GO,
    LOST,
    MINUTE,
    NAMED,
    POLICY,
    REPEATS,
    RETURNS,
    STALLS,
    STRANDED,
    STRANDED_BY_NAME,
    TICK,
    W2,
    WATCHED,
    WORKED_ON,
    acted,
    decision_of,
    queued,
    row,
    running,
)


@pytest.mark.parametrize(
    ("run", "evidence", "policy", "fate"),
    [
        # timed_out: whatever is known of the task; killed only where a worker executes it
        row("at run_timeout", running(HOUR), "leave inconclusive"),
        row("one moment more", running(HOUR + TICK), "fail timed_out"),
        row("one second more", running(HOUR + SECOND), "fail timed_out"),
        row("too long, worked on", running(HOUR + SECOND), "fail timed_out terminate", WORKED_ON),
        row("too long, kept", running(HOUR + SECOND), "fail timed_out", KEPT),
        row("too long, dead", running(HOUR + SECOND), "fail timed_out", DEAD),
        row("too long, returns", running(HOUR + SECOND), "fail timed_out", RETURNS),
        row("too long, stalled too", running(HOUR + SECOND), "fail timed_out terminate", WORKED_ON, STALLS),
        row("too long, may be repeated", running(HOUR + SECOND), "requeue timed_out terminate", WORKED_ON, REPEATS),
        row("too long, no task id", running(HOUR + SECOND, task_id=None), "fail timed_out"),
        row("progress is no excuse", running(HOUR + SECOND, progress_at=NOW), "fail timed_out"),
        row(
            "waited long, started now", running(SECOND, created_at=NOW - DAY, queued_at=NOW - DAY), "leave within_grace"
        ),
        # without a start: progress, queued, our own requeue, created, in this order
        row("by progress", running(DAY, started_at=None, progress_at=NOW - MINUTE), "leave inconclusive"),
        row("by old progress", running(started_at=None, progress_at=NOW - HOUR - SECOND), "fail timed_out"),
        row("by queued", running(started_at=None, queued_at=NOW - HOUR - SECOND), "fail timed_out"),
        row(
            "by our requeue",
            running(DAY, started_at=None, queued_at=None, history=acted(HOUR, requeues=1)),
            "leave inconclusive",
        ),
        row("by created", running(started_at=None, queued_at=None, created_at=NOW - HOUR - SECOND), "fail timed_out"),
        # stalled: only where the kind sets it, only held; killed only where a worker executes it
        row("no progress for long, no stall_timeout", running(HOUR), "leave in_progress", WORKED_ON),
        row("at stall_timeout", running(HOUR, progress_at=NOW - 10 * MINUTE), "leave in_progress", WORKED_ON, STALLS),
        row(
            "beyond it",
            running(HOUR, progress_at=NOW - 10 * MINUTE - SECOND),
            "fail stalled terminate",
            WORKED_ON,
            STALLS,
        ),
        row("beyond it, kept", running(HOUR, progress_at=NOW - 11 * MINUTE), "fail stalled", KEPT, STALLS),
        row("never any progress", running(11 * MINUTE), "fail stalled terminate", WORKED_ON, STALLS),
        row("just started", running(MINUTE), "leave in_progress", WORKED_ON, STALLS),
        row("progress this moment", running(HOUR, progress_at=NOW), "leave in_progress", WORKED_ON, STALLS),
        row(
            "progress during the sweep", running(HOUR, progress_at=NOW + SECOND), "leave in_progress", WORKED_ON, STALLS
        ),
        row("no progress, not held", running(HOUR), "leave inconclusive", policy=STALLS),
        row(
            "stalled, may be repeated",
            running(11 * MINUTE),
            "requeue stalled terminate",
            WORKED_ON,
            replace(REPEATS, stall_timeout=10 * MINUTE),
        ),
        # held wins over whatever else is said
        row("held", running(HOUR), "leave in_progress", WORKED_ON),
        row("kept", running(HOUR), "leave in_progress", KEPT),
        row("held, by another than claimed it", running(HOUR, worker=W2), "leave in_progress", WORKED_ON),
        row("held, and its worker is dead", running(HOUR), "leave in_progress", replace(DEAD, holder=W2)),
        row("held, and let go", running(HOUR), "leave in_progress", replace(LET_GO, holder=W2)),
        row("held, and returns", running(HOUR), "leave in_progress", replace(RETURNS, holder=W2)),
        # returning
        row("retry_scheduled", running(HOUR), "leave retry_scheduled", RETURNS),
        row("returning, its worker is dead", running(HOUR), "leave retry_scheduled", replace(DEAD, retry_waiting=True)),
        # orphaned: its worker is dead
        row("dead, at orphan_grace", running(5 * SECOND), "leave within_grace", DEAD),
        row("dead, one second more", running(6 * SECOND), "fail orphaned", DEAD),
        row(
            "dead, progress at orphan_grace", running(MINUTE, progress_at=NOW - 5 * SECOND), "leave within_grace", DEAD
        ),
        row("dead, progress before it", running(MINUTE, progress_at=NOW - 6 * SECOND), "fail orphaned", DEAD),
        row("dead, progress this moment", running(MINUTE, progress_at=NOW), "leave within_grace", DEAD),
        row("dead, may be repeated", running(MINUTE), "requeue orphaned", DEAD, REPEATS),
        row(
            "dead, had said so",
            running(MINUTE),
            "requeue orphaned interrupted",
            replace(DEAD, shutdown_announced=True),
            REPEATS,
        ),
        row("dead, had said so, is failed", running(MINUTE), "fail orphaned", replace(DEAD, shutdown_announced=True)),
        row("dead, no start and no progress", running(MINUTE, started_at=None), "fail orphaned", DEAD),
        row("dead, no task id", running(MINUTE, task_id=None), "leave inconclusive", replace(DEAD, absent=False)),
        row("dead, by a skewed clock young", running(MINUTE, skew=55 * SECOND), "leave within_grace", DEAD),
        row("dead, by a skewed clock old", running(skew=-6 * SECOND), "fail orphaned", DEAD),
        # orphaned: its worker lives, and its later report is without the task
        row("let go", running(MINUTE), "fail orphaned", LET_GO),
        row("let go, at orphan_grace", running(5 * SECOND), "leave within_grace", LET_GO),
        row("let go, one second more", running(6 * SECOND), "fail orphaned", LET_GO),
        row(
            "report of the same moment as the start",
            running(MINUTE),
            "leave inconclusive",
            replace(LET_GO, claimant_listed_at=NOW - MINUTE),
        ),
        row(
            "report of one moment later",
            running(MINUTE),
            "fail orphaned",
            replace(LET_GO, claimant_listed_at=NOW - MINUTE + TICK),
        ),
        row(
            "progress after the report",
            running(HOUR, progress_at=NOW - MINUTE),
            "leave inconclusive",
            replace(LET_GO, claimant_listed_at=NOW - MINUTE),
        ),
        row(
            "both by the worker's clock, which is hours behind",
            running(started_at=NOW - 3 * HOUR, skew=3 * HOUR - MINUTE),
            "fail orphaned",
            replace(LET_GO, claimant_listed_at=NOW - 3 * HOUR + TICK),
        ),
        row(
            "both by the worker's clock, the report is older",
            running(started_at=NOW - 3 * HOUR, skew=3 * HOUR - MINUTE),
            "leave inconclusive",
            replace(LET_GO, claimant_listed_at=NOW - 3 * HOUR - TICK),
        ),
        row("let go, but when did it start", running(MINUTE, started_at=None), "leave inconclusive", LET_GO),
        row(
            "a dead worker's copy tells nothing of the live one that claimed it",
            running(MINUTE),
            "leave inconclusive",
            replace(LET_GO, claimant_listed_at=NOW - HOUR, last_holder=W2),
        ),
        # the worker that the row names never reported
        row("never reported", running(MINUTE), "leave inconclusive", replace(DEAD, claimant_liveness=Liveness.UNKNOWN)),
        row("never reported, all are watched", running(MINUTE), "leave inconclusive", WATCHED),
        row(
            "never reported, an earlier one of its name is dead",
            running(MINUTE),
            "leave inconclusive",
            replace(NAMED, last_holder="celery@w1/old"),
        ),
        row(
            "never reported, another one is dead", running(MINUTE), "leave inconclusive", replace(NAMED, last_holder=W2)
        ),
        # the row names no worker, or one without its incarnation
        row("no worker, named", running(MINUTE, worker=""), "fail orphaned", NAMED),
        row(
            "no worker, named, had said so",
            running(MINUTE, worker=""),
            "requeue orphaned interrupted",
            replace(NAMED, shutdown_announced=True),
            REPEATS,
        ),
        row("a hostname, named", running(MINUTE, worker="celery@w1"), "fail orphaned", NAMED),
        row("another hostname, named", running(MINUTE, worker="celery@w2"), "leave inconclusive", NAMED),
        row("no worker, named, at orphan_grace", running(5 * SECOND, worker=""), "leave within_grace", NAMED),
        row("no worker, watched since before", running(MINUTE, worker=""), "fail orphaned", WATCHED),
        row("no worker, watched since its start", running(HOUR, worker=""), "leave inconclusive", WATCHED),
        row("no worker, watched since the moment before", running(HOUR - TICK, worker=""), "fail orphaned", WATCHED),
        row(
            "no worker, watched, but since when does it run",
            running(MINUTE, worker="", started_at=None),
            "leave inconclusive",
            WATCHED,
        ),
        row(
            "no worker, nothing known", running(MINUTE, worker=""), "leave inconclusive", replace(NAMED, last_holder="")
        ),
        # evidence of another phase
        row("nothing", running(MINUTE), "leave inconclusive"),
        *[
            row(f"running, {name}", running(MINUTE), "leave inconclusive", EVERY[name])
            for name in ("waiting", "lost", "stranded", "overtaken")
        ],
    ],
)
def test_running_run_gets_decision_of_table(run, evidence, policy, fate):
    assert decide(run, evidence, policy, NOW) == decision_of(fate)


@pytest.mark.parametrize("missing", [{"absent": False}, {"witness": ""}, {"holder": W2}])
@pytest.mark.parametrize(
    ("run", "evidence"),
    [
        pytest.param(running(MINUTE), DEAD, id="dead"),
        pytest.param(running(MINUTE), LET_GO, id="let go"),
        pytest.param(running(MINUTE, worker=""), NAMED, id="named"),
        pytest.param(running(MINUTE, worker=""), WATCHED, id="watched"),
        pytest.param(queued(MINUTE), LOST, id="lost"),
        pytest.param(queued(MINUTE), STRANDED, id="stranded"),
        pytest.param(queued(MINUTE), STRANDED_BY_NAME, id="stranded by name"),
    ],
)
def test_absence_reason_needs_certain_absence_and_witness(run, evidence, missing):
    assert decide(run, evidence, POLICY, NOW).reason in ABSENCE_REASONS
    assert decide(run, replace(evidence, **missing), POLICY, NOW).action is Action.LEAVE
