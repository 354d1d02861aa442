"""The budgets: how often a run is requeued before it is failed. No database."""

from dataclasses import replace

import pytest

from reaper.core.decisions import decide
from reaper.core.policy import Action, Policy
from tests.factories import NOW
from tests.reaper.core.cases import (
    DAY,
    DEAD,
    LOST,
    MINUTE,
    OVERTAKEN,
    REPEATS,
    STRANDED,
    WORKED_ON,
    acted,
    decision_of,
    executed,
    never_sent,
    queued,
    row,
    running,
)

CUT_OFF = replace(DEAD, shutdown_announced=True)


@pytest.mark.parametrize(
    ("run", "evidence", "policy", "fate"),
    [
        row("a third requeue", running(DAY, history=acted(requeues=2)), "requeue timed_out", policy=REPEATS),
        row("poison", running(DAY, history=acted(requeues=3)), "fail timed_out exhausted", policy=REPEATS),
        row("more poison", running(DAY, history=acted(requeues=4)), "fail timed_out exhausted", policy=REPEATS),
        row(
            "poison, killed",
            running(DAY, history=acted(requeues=3)),
            "fail timed_out terminate exhausted",
            WORKED_ON,
            REPEATS,
        ),
        row("poison, orphaned", running(MINUTE, history=acted(requeues=3)), "fail orphaned exhausted", DEAD, REPEATS),
        row(
            "other budgets are spent",
            running(MINUTE, history=acted(redispatches=9, interruptions=99)),
            "requeue orphaned",
            DEAD,
            REPEATS,
        ),
        row(
            "a tenth interruption",
            running(MINUTE, history=acted(requeues=9, interruptions=9)),
            "requeue orphaned interrupted",
            CUT_OFF,
            REPEATS,
        ),
        row(
            "interrupted too often",
            running(MINUTE, history=acted(interruptions=10)),
            "fail orphaned exhausted interrupted",
            CUT_OFF,
            REPEATS,
        ),
        row(
            "a timeout is no interruption",
            running(DAY, history=acted(requeues=3)),
            "fail timed_out exhausted",
            CUT_OFF,
            REPEATS,
        ),
        row("a fifth redispatch", queued(DAY, history=acted(requeues=9, redispatches=4)), "requeue lost", LOST),
        row("never starts, lost", queued(DAY, history=acted(redispatches=5)), "fail lost exhausted", LOST),
        row("never starts, stranded", queued(DAY, history=acted(redispatches=5)), "fail stranded exhausted", STRANDED),
        row(
            "never starts, overtaken", queued(DAY, history=acted(redispatches=5)), "fail overtaken exhausted", OVERTAKEN
        ),
        row("never to be sent", never_sent(DAY, history=acted(redispatches=5)), "fail never_sent exhausted"),
        row(
            "its claim hangs again and again",
            queued(DAY, history=acted(redispatches=5)),
            "fail timed_out terminate exhausted",
            executed(DAY),
            REPEATS,
        ),
        row("no requeues at all", running(DAY), "fail timed_out exhausted", policy=replace(REPEATS, max_requeues=0)),
        row("a fail has no budget", running(DAY, history=acted(requeues=9)), "fail timed_out"),
        row("an orphan's fail has no budget", running(MINUTE, history=acted(requeues=9)), "fail orphaned", DEAD),
        row("on_orphan is not on_timeout", running(MINUTE), "fail orphaned", DEAD, Policy(on_timeout=Action.REQUEUE)),
        row("on_timeout is not on_orphan", running(DAY), "fail timed_out", DEAD, Policy(on_orphan=Action.REQUEUE)),
    ],
)
def test_run_requeued_before_gets_decision_of_its_budget(run, evidence, policy, fate):
    assert decide(run, evidence, policy, NOW) == decision_of(fate)
