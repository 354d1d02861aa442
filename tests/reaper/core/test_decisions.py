"""The rules of any phase, and what comes with a decision. No database."""

from dataclasses import replace
from datetime import timedelta

import pytest

from reaper.core.decisions import PUBLISH_GRACE, Decision, alert_for, decide
from reaper.core.facts import NO_EVIDENCE, History, Phase
from reaper.core.policy import Action, Policy
from reaper.core.reasons import Reason
from tests.factories import NOW, SECOND
from tests.reaper.core.cases import (
    DAY,
    DEAD,
    END_OF_TIME,
    EVERY,
    HOUR,
    LET_GO,
    LOST,
    MINUTE,
    OVERTAKEN,
    POLICY,
    TICK,
    UNPUBLISHED,
    YEAR_ONE,
    acted,
    decision_of,
    never_sent,
    queued,
    row,
    running,
    sent,
    timeless,
)


@pytest.mark.parametrize("evidence", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize(
    ("run", "fate"),
    [
        (replace(running(DAY), phase=Phase.FINISHED), "leave finished"),
        (replace(running(DAY), phase=Phase.FINISHED, parent_ended=True), "leave finished"),
        (replace(running(DAY), phase=Phase.FINISHED, history=UNPUBLISHED), "leave finished"),
        (replace(running(DAY), phase=Phase.UNKNOWN), "leave unknown_status"),
        (replace(running(DAY), phase=Phase.UNKNOWN, parent_ended=True), "leave unknown_status"),
        (replace(running(DAY), phase="odd"), "leave unknown_status"),
        (running(parent_ended=True), "close parent_ended"),
        (running(DAY, parent_ended=True), "close parent_ended"),
        (running(parent_ended=True, history=acted(SECOND, requeues=1)), "close parent_ended"),
        (queued(parent_ended=True), "close parent_ended"),
        (queued(parent_ended=True, history=UNPUBLISHED), "close parent_ended"),
        (never_sent(DAY, parent_ended=True, history=acted(redispatches=9)), "close parent_ended"),
        (timeless(queued(parent_ended=True)), "close parent_ended"),
        (queued(history=sent(PUBLISH_GRACE)), "leave backoff"),
        (queued(history=sent(PUBLISH_GRACE + SECOND)), "republish unpublished"),
        (running(DAY, history=acted(SECOND, requeues=1)), "leave backoff"),
        (queued(DAY, history=acted(SECOND, redispatches=1)), "leave backoff"),
        (timeless(running()), "leave no_timestamp"),
        (timeless(queued()), "leave no_timestamp"),
    ],
)
def test_decision_before_evidence_ignores_evidence(run, fate, evidence):
    assert decide(run, evidence, POLICY, NOW) == decision_of(fate)


@pytest.mark.parametrize(
    ("run", "evidence", "policy", "fate"),
    [
        row("the parent has not ended", queued(parent="3"), "leave within_grace"),
        # our own dispatch: the same id again once its own sweep has had its time, whatever the run's age
        row("unpublished, at once", queued(history=sent(timedelta(0))), "leave backoff"),
        row("unpublished, by a sweep that began later", queued(history=sent(-SECOND)), "leave backoff"),
        row("unpublished, one hour ahead", queued(history=sent(-HOUR)), "leave backoff"),
        row("unpublished, far in the future", queued(history=sent(-HOUR - SECOND)), "republish unpublished"),
        row("unpublished, nobody knows when", queued(history=UNPUBLISHED), "republish unpublished"),
        row("unpublished, old", queued(DAY, history=UNPUBLISHED), "republish unpublished"),
        row("unpublished, no clock", timeless(queued(history=UNPUBLISHED)), "republish unpublished"),
        row(
            "unpublished, budgets spent",
            queued(history=acted(DAY, requeues=9, redispatches=9, unpublished_task_id="t1")),
            "republish unpublished",
        ),
        row("another id since", queued(task_id="t2", history=UNPUBLISHED), "leave backoff"),
        row("no id is not unpublished", queued(task_id=""), "leave within_grace"),
        row("NULL is not unpublished", queued(task_id=None), "leave within_grace"),
        row("it did arrive: it runs", running(history=UNPUBLISHED), "leave backoff"),
        # backoff: 30 s, 2 min, 8 min, and 8 min for ever
        *[
            each
            for count, wait in ((1, 30 * SECOND), (2, 2 * MINUTE), (3, 8 * MINUTE), (7, 8 * MINUTE))
            for run, past in ((running(DAY), "requeues"), (running(DAY), "interruptions"))
            for each in (
                row(
                    f"{count} {past}, at the wait", replace(run, history=acted(wait, **{past: count})), "leave backoff"
                ),
                row(
                    f"{count} {past}, one second more",
                    replace(run, history=acted(wait + SECOND, **{past: count})),
                    "fail timed_out",
                ),
            )
        ],
        row(
            "every act counts", never_sent(DAY, history=acted(2 * MINUTE, requeues=1, redispatches=1)), "leave backoff"
        ),
        row(
            "every act counts, also interruptions",
            running(DAY, history=acted(8 * MINUTE, requeues=1, redispatches=1, interruptions=1)),
            "leave backoff",
        ),
        row("acted on this moment", running(DAY, history=acted(timedelta(0), requeues=1)), "leave backoff"),
        row("acted on in the future", running(DAY, history=acted(-HOUR, requeues=1)), "fail timed_out"),
        row("acted on, but when", running(DAY, history=History(requeues=1)), "fail timed_out"),
        row("a time without an act", running(DAY, history=acted(SECOND)), "fail timed_out"),
        row(
            "no backoff is set",
            running(DAY, history=acted(SECOND, requeues=1)),
            "fail timed_out",
            policy=Policy(backoff=()),
        ),
        # clocks that cannot be believed: what is left of them
        row("all in the future", running(-DAY), "leave no_timestamp"),
        row("queued in the future", never_sent(HOUR, queued_at=NOW + DAY), "requeue never_sent"),
        row("started in the future", running(started_at=NOW + DAY, progress_at=NOW - MINUTE), "leave inconclusive"),
        row("a clock that is an hour ahead", running(DAY, started_at=NOW + HOUR), "leave within_grace"),
        row("and one second more", running(DAY, started_at=NOW + HOUR + SECOND), "fail timed_out"),
        row("the end of time", replace(timeless(running()), started_at=END_OF_TIME), "leave no_timestamp"),
        row("year one", running(started_at=YEAR_ONE), "fail timed_out"),
        row("a skewed clock, put right", running(started_at=NOW + HOUR, skew=-2 * HOUR - SECOND), "fail timed_out"),
        row("a skewed clock, at the limit", running(started_at=NOW + HOUR, skew=-2 * HOUR), "leave inconclusive"),
    ],
)
def test_run_of_any_phase_gets_decision_of_table(run, evidence, policy, fate):
    assert decide(run, evidence, policy, NOW) == decision_of(fate)


@pytest.mark.parametrize("evidence", [NO_EVIDENCE, DEAD, LET_GO], ids=["nothing", "dead", "let go"])
def test_run_claimed_during_sweep_is_not_judged_by_time_in_queue(evidence):
    """The sweep's `now` is older than everything that it reads, so a start after it is the freshest there is."""
    claimed = running(HOUR + MINUTE, started_at=NOW + SECOND)
    assert decide(claimed, evidence, POLICY, NOW) == decision_of("leave within_grace")


def test_run_sent_during_sweep_is_not_judged_by_creation():
    resent = queued(DAY, queued_at=NOW + SECOND)
    assert decide(resent, LOST, POLICY, NOW) == decision_of("leave within_grace")


def test_requeue_counts_as_dispatch_without_queued_at():
    """Otherwise such a run would be overtaken again as soon as its backoff is over, and poison within minutes."""
    requeued = queued(HOUR, queued_at=None, history=acted(15 * MINUTE, redispatches=1))
    assert decide(requeued, OVERTAKEN, POLICY, NOW) == decision_of("leave inconclusive")


@pytest.mark.parametrize(
    ("decision", "code"),
    [
        (Decision(Action.FAIL, Reason.TIMED_OUT), "timed_out"),
        (Decision(Action.FAIL, Reason.TIMED_OUT, exhausted=True), "poison"),
        (Decision(Action.CLOSE, Reason.PARENT_ENDED), "parent_ended"),
    ],
)
def test_decision_code_is_reason_or_poison(decision, code):
    assert decision.code == code
    assert len(code) <= 50


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (running(30 * MINUTE), ""),
        (running(30 * MINUTE + TICK), "long_running"),
        (queued(15 * MINUTE), ""),
        (queued(15 * MINUTE + TICK), "backlog"),
        (queued(30 * MINUTE, queued_at=NOW), ""),
        (replace(running(DAY), phase=Phase.FINISHED), ""),
        (replace(running(DAY), phase=Phase.UNKNOWN), ""),
        (timeless(running()), ""),
    ],
)
def test_run_over_alert_limit_has_alert(run, why):
    assert alert_for(run, POLICY, NOW) == why
