"""What a person reads: the sentence in the run, and what is known of its task. No database."""

from dataclasses import replace

import pytest
from hypothesis import given

from reaper.core.decisions import Decision, decide
from reaper.core.explain import describe_action, describe_decision, describe_evidence, describe_facts, describe_limits
from reaper.core.facts import NO_EVIDENCE, Evidence, Liveness, MessageLocation, Phase
from reaper.core.policy import Action, Policy
from reaper.core.reasons import Reason
from tests.factories import NOW, SECOND
from tests.reaper.core.cases import (
    DAY,
    HOUR,
    KEPT,
    MINUTE,
    REPEATS,
    W1,
    W2,
    WORKED_ON,
    acted,
    queued,
    running,
    timeless,
)
from tests.reaper.core.strategies import POLICIES, always, evidences, runs


@pytest.mark.parametrize(
    ("run", "decision", "by", "sentence"),
    [
        (
            running(2 * HOUR),
            Decision(Action.FAIL, Reason.TIMED_OUT, terminate=True),
            "",
            "Failed by the reaper: it was running longer than its run timeout (rule timed_out)."
            " It had been running for 2 h.",
        ),
        (
            queued(16 * MINUTE + 5 * SECOND),
            Decision(Action.REQUEUE, Reason.LOST),
            "",
            "Requeued by the reaper: its message is gone and no worker has its task (rule lost)."
            " It had been pending for 16 min 5 s.",
        ),
        (
            queued(DAY, history=acted(requeues=1, redispatches=5, interruptions=2)),
            Decision(Action.FAIL, Reason.NEVER_SENT, exhausted=True),
            "",
            "Failed by the reaper: no task was ever sent for it (rule never_sent)."
            " It had been pending for 1 d. Given up after 8 requeues.",
        ),
        (
            running(MINUTE, history=acted(requeues=1)),
            Decision(Action.FAIL, Reason.ORPHANED, exhausted=True),
            "",
            "Failed by the reaper: no live worker has its task any more (rule orphaned)."
            " It had been running for 1 min. Given up after 1 requeue.",
        ),
        (
            running(MINUTE),
            Decision(Action.FAIL, Reason.ORPHANED, exhausted=True),
            "",
            "Failed by the reaper: no live worker has its task any more (rule orphaned)."
            " It had been running for 1 min. Requeueing is disabled for its kind.",
        ),
        (
            running(MINUTE, parent_ended=True),
            Decision(Action.CLOSE, Reason.PARENT_ENDED),
            "",
            "Closed by the reaper: its parent has ended (rule parent_ended). It had been running for 1 min.",
        ),
        (
            queued(MINUTE),
            Decision(Action.REPUBLISH, Reason.UNPUBLISHED),
            "",
            "Sent again by the reaper: the broker never confirmed its last dispatch (rule unpublished)."
            " It had been pending for 1 min.",
        ),
        (
            running(MINUTE),
            Decision(Action.FAIL, Reason.MANUAL),
            "ada",
            "Failed by ada (rule manual). It had been running for 1 min.",
        ),
        (
            running(MINUTE, status=""),
            Decision(Action.REQUEUE, Reason.MANUAL),
            "ada",
            "Requeued by ada (rule manual). It had been running for 1 min.",
        ),
        (timeless(running()), Decision(Action.FAIL, Reason.MANUAL), "ada", "Failed by ada (rule manual)."),
    ],
)
def test_action_message_names_action_actor_reason_and_duration(run, decision, by, sentence):
    assert describe_action(run, decision, NOW, actor=by) == sentence


GONE = Evidence(absent=True, witness=W2, queue="crawl", waiting=0)
DEAD = replace(GONE, claimant_liveness=Liveness.DEAD, claimant_seen_at=NOW - 48 * SECOND)
ABSENT = replace(GONE, message_location=MessageLocation.ABSENT)
LOOKED = replace(ABSENT, first_sighting_at=NOW - 31 * SECOND, all_reported_since=True)
CLAIMED = "started by celery@w1, which is dead, last heartbeat 48 s ago; "
NOBODY = "no live worker has the task"
UNSURE = "no live worker reports the task, but none has reported long enough to confirm that"
UNKNOWN = "can't tell whether a live worker still has the task"


@pytest.mark.parametrize(
    ("run", "evidence", "words"),
    [
        # who claimed it
        (running(), DEAD, CLAIMED + NOBODY),
        (
            running(),
            replace(DEAD, shutdown_announced=True),
            "started by celery@w1, which announced its shutdown and is gone, last heartbeat 48 s ago; " + NOBODY,
        ),
        (
            running(),
            replace(DEAD, claimant_liveness=Liveness.ALIVE, claimant_seen_at=NOW - 2 * SECOND),
            "started by celery@w1, which is alive, last heartbeat 2 s ago; " + NOBODY,
        ),
        (
            running(),
            replace(DEAD, claimant_liveness=Liveness.ALIVE, claimant_seen_at=NOW + SECOND),
            "started by celery@w1, which is alive, last heartbeat just now; " + NOBODY,
        ),
        (running(), GONE, "started by celery@w1, no heartbeat from it is recorded; " + NOBODY),
        (running(worker=""), GONE, "no worker recorded on the run; " + NOBODY),
        (
            running(worker=""),
            replace(GONE, fleet_watched_since=NOW - HOUR),
            "no worker recorded on the run; no live worker has the task; all live workers have been reporting for 1 h",
        ),
        (
            running(worker=""),
            replace(GONE, last_holder=W1),
            "no worker recorded on the run; no live worker has the task;"
            " celery@w1, which is dead, had the task at its last heartbeat",
        ),
        (
            running(worker=""),
            replace(GONE, last_holder=W1, shutdown_announced=True),
            "no worker recorded on the run; no live worker has the task;"
            " celery@w1, which announced its shutdown and is gone, had the task at its last heartbeat",
        ),
        # that the claimant had it is not said twice
        (running(), replace(DEAD, last_holder=W1), CLAIMED + NOBODY),
        # who has the task
        (
            running(),
            replace(DEAD, holder=W2, active_since=NOW - 3 * MINUTE),
            CLAIMED + "celery@w2 has been running the task for 3 min",
        ),
        (queued(), Evidence(holder="celery@w2"), "celery@w2 has reserved the task"),
        (running(), replace(DEAD, witness=""), CLAIMED + UNSURE),
        (running(), replace(DEAD, absent=False), CLAIMED + UNKNOWN),
        (
            running(),
            replace(DEAD, absent=False, uncertainties=("celery@w3 answers but does not report",)),
            CLAIMED + UNKNOWN + "; celery@w3 answers but does not report",
        ),
        (running(task_id=None), replace(DEAD, absent=False), CLAIMED + "no task was ever sent for it"),
        (queued(task_id=""), NO_EVIDENCE, "no task was ever sent for it"),
        # where its message is
        (
            running(),
            replace(DEAD, retry_waiting=True),
            CLAIMED + NOBODY + "; its Celery retry is waiting in queue crawl",
        ),
        (queued(), ABSENT, NOBODY + "; its message is not in queue crawl (0 waiting)"),
        (queued(), replace(ABSENT, waiting=None), NOBODY + "; its message is not in queue crawl"),
        (queued(), replace(ABSENT, queue="", waiting=None), NOBODY + "; its message is not in its queue"),
        (
            queued(),
            replace(GONE, message_location=MessageLocation.WAITING, waiting=12),
            NOBODY + "; its message is waiting in queue crawl (12 waiting)",
        ),
        (
            queued(),
            replace(GONE, message_location=MessageLocation.DELIVERED),
            NOBODY + "; its message was delivered from queue crawl (0 waiting) and is not acknowledged",
        ),
        (
            queued(),
            replace(GONE, message_location=MessageLocation.DELIVERED, last_holder=W1),
            NOBODY + "; celery@w1, which is dead, had the task at its last heartbeat"
            "; its message was delivered from queue crawl (0 waiting) and is not acknowledged",
        ),
        (
            queued(),
            replace(GONE, waiting=3, overtaken=True),
            NOBODY + "; can't tell whether its message is in queue crawl (3 waiting)"
            "; runs dispatched much later have already started",
        ),
        (
            queued(),
            LOOKED,
            NOBODY + "; its message is not in queue crawl (0 waiting)"
            "; the same was found 31 s ago, and every live worker has reported since",
        ),
        (
            queued(),
            replace(LOOKED, all_reported_since=False),
            NOBODY + "; its message is not in queue crawl (0 waiting)"
            "; the same was found 31 s ago, and not every live worker has reported since",
        ),
    ],
)
def test_evidence_is_described_in_one_line(run, evidence, words):
    assert describe_evidence(run, evidence, NOW) == words


@given(runs(), evidences(), POLICIES)
@always
def test_any_run_and_decision_can_be_described(run, evidence, policy):
    assert describe_action(run, decide(run, evidence, policy, NOW), NOW).endswith(".")
    assert describe_evidence(run, evidence, NOW)
    assert describe_facts(run, NOW).endswith(".")
    assert describe_decision(run, decide(run, evidence, policy, NOW), policy, NOW).endswith(".")


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (
            running(2 * HOUR, progress_at=NOW - 5 * SECOND),
            "It has been running for 2 h, started by celery@w1/abc, last progress 5 s ago, task id t1.",
        ),
        (
            running(HOUR, worker=""),
            "It has been running for 1 h, no worker recorded, no progress recorded, task id t1.",
        ),
        (
            queued(HOUR, task_id="", parent="3", parent_ended=True),
            "It has been pending for 1 h, no task was ever sent for it. Its parent is 3, which has ended.",
        ),
        (timeless(queued(parent="3")), "It is pending, since when is not known, task id t1. Its parent is 3."),
        (replace(running(), phase=Phase.FINISHED, status="failed"), "It has ended with status failed, task id t1."),
    ],
)
def test_facts_are_described_in_a_sentence(run, sentence):
    assert describe_facts(run, NOW) == sentence


@pytest.mark.parametrize(
    ("run", "evidence", "policy", "sentence"),
    [
        (
            running(42 * MINUTE),
            NO_EVIDENCE,
            Policy(),
            "No action: not enough evidence (rule inconclusive). It would be failed at run_timeout, in 18 min.",
        ),
        (
            running(42 * MINUTE),
            NO_EVIDENCE,
            REPEATS,
            "No action: not enough evidence (rule inconclusive). It would be requeued at run_timeout, in 18 min.",
        ),
        (
            running(HOUR),
            KEPT,
            Policy(),
            "No action: it is in progress on a live worker (rule in_progress)."
            " It would be failed at run_timeout, in 0 s.",
        ),
        (running(HOUR, exempt=True), NO_EVIDENCE, Policy(), "No action: it is exempt from recovery (rule exempt)."),
        (queued(), NO_EVIDENCE, Policy(), "No action: within limits (rule within_grace)."),
        (timeless(running()), NO_EVIDENCE, Policy(), "No action: it has no usable timestamp (rule no_timestamp)."),
        (
            running(2 * HOUR),
            WORKED_ON,
            Policy(),
            "It would be failed and its task killed: it was running longer than its run timeout (rule timed_out).",
        ),
        (
            running(2 * HOUR, history=acted(requeues=3)),
            NO_EVIDENCE,
            REPEATS,
            "It would be failed: it was running longer than its run timeout (rule timed_out)."
            " Given up after 3 requeues.",
        ),
    ],
)
def test_decision_text_names_action_reason_and_effect_of_timeout(run, evidence, policy, sentence):
    assert describe_decision(run, decide(run, evidence, policy, NOW), policy, NOW) == sentence


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (running(), "Limits: run_timeout 1 h, orphan_grace 5 s, alert_after 30 min"),
        (queued(), "Limits: queue_timeout 15 min, lost_grace 30 s"),
        (replace(running(), phase=Phase.FINISHED), ""),
    ],
)
def test_limits_are_those_of_the_phase(run, sentence):
    assert describe_limits(run, Policy()) == sentence
