"""What must hold whatever a row and the evidence say. No database."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from reaper.core.decisions import PUBLISH_GRACE, alert_for, decide
from reaper.core.facts import NO_EVIDENCE, MessageLocation, Phase
from reaper.core.policy import Action
from reaper.core.reasons import Reason
from tests.factories import NOW
from tests.reaper.core.cases import (
    DAY,
    DEAD,
    EVERY,
    LOST,
    MINUTE,
    OVERTAKEN,
    STRANDED,
    TICK,
    W1,
    W2,
    never_sent,
    queued,
    running,
)
from tests.reaper.core.strategies import PAST, POLICIES, always, evidences, histories, runs


@given(runs(), evidences() | st.sampled_from(list(EVERY.values())), POLICIES)
@settings(always, max_examples=100)
def test_decide_returns_a_decision_for_any_run(run, evidence, policy):
    decision = decide(run, evidence, policy, NOW)
    assert decision.action in Action
    assert decision.reason in Reason
    assert alert_for(run, policy, NOW) in ("", "long_running", "backlog")


@given(runs(phase=st.sampled_from([Phase.FINISHED, Phase.UNKNOWN])), evidences(), POLICIES)
@always
def test_finished_or_unknown_run_is_left_alone(run, evidence, policy):
    assert decide(run, evidence, policy, NOW).action is Action.LEAVE


@given(runs(), evidences(holder=st.sampled_from([W1, W2])), POLICIES)
@always
def test_held_run_is_acted_on_only_over_a_time_limit(run, evidence, policy):
    decision = decide(run, evidence, policy, NOW)
    if decision.action is not Action.LEAVE:
        too_long = (Reason.TIMED_OUT, Reason.STALLED)
        assert decision.reason in (*too_long, Reason.PARENT_ENDED, Reason.UNPUBLISHED)


BY_TIME = (Reason.TIMED_OUT, Reason.OVERTAKEN, Reason.NEVER_SENT, Reason.PARENT_ENDED, Reason.UNPUBLISHED)


@given(
    runs(),
    evidences(holder=st.just(""), absent=st.just(False), message_location=st.just(MessageLocation.UNKNOWN))
    | evidences(holder=st.just(""), witness=st.just(""), message_location=st.just(MessageLocation.UNKNOWN)),
    POLICIES,
)
@always
def test_run_without_evidence_is_acted_on_by_time_alone(run, evidence, policy):
    decision = decide(run, evidence, policy, NOW)
    assert decision.action is Action.LEAVE or decision.reason in BY_TIME


@given(runs(), evidences(), POLICIES)
@always
def test_requeue_is_within_budget_and_poison_is_beyond(run, evidence, policy):
    decision, past = decide(run, evidence, policy, NOW), run.history
    if run.phase is not Phase.RUNNING:
        count, most = past.redispatches, policy.max_redispatches
    elif decision.interrupted:
        count, most = past.interruptions, policy.max_interruptions
    else:
        count, most = past.requeues, policy.max_requeues
    if decision.action is Action.REQUEUE:
        assert count < most
        assert not decision.exhausted
    if decision.exhausted:
        assert decision.action is Action.FAIL
        assert count >= most


@given(runs(), evidences(), POLICIES)
@always
def test_task_is_killed_only_while_executing(run, evidence, policy):
    decision = decide(run, evidence, policy, NOW)
    if decision.terminate:
        assert evidence.active_since is not None
        assert decision.action in (Action.FAIL, Action.REQUEUE)


@given(runs(phase=st.just(Phase.RUNNING)), evidences(), POLICIES)
@always
def test_run_younger_than_its_limits_is_left_alone(run, evidence, policy):
    """Whatever its age is taken from: unless a parent has ended, nothing is done within the shortest limit."""
    limits = [policy.run_timeout, policy.orphan_grace, *([policy.stall_timeout] if policy.stall_timeout else [])]
    ages = run.age(NOW), run.idle_for(NOW)
    if None not in ages and max(ages) <= min(limits) and not run.parent_ended:
        assert decide(run, evidence, policy, NOW).action is Action.LEAVE


@given(POLICIES)
@always
def test_run_at_limit_is_left_alone_and_acted_on_after_it(policy):
    policy = replace(policy, stall_timeout=None)
    for make, limit, evidence in (
        (running, policy.run_timeout, NO_EVIDENCE),
        (running, min(policy.orphan_grace, policy.run_timeout), DEAD),
        (never_sent, policy.lost_grace, NO_EVIDENCE),
        (queued, policy.lost_grace, LOST),
        (queued, policy.lost_grace, STRANDED),
        (queued, max(policy.lost_grace, policy.queue_timeout), OVERTAKEN),
    ):
        assert decide(make(limit), evidence, policy, NOW).action is Action.LEAVE
        assert decide(make(limit + TICK), evidence, policy, NOW).action is not Action.LEAVE


@given(
    runs(stamps=PAST, skew=st.timedeltas(-DAY, timedelta(0))),
    evidences(stamps=PAST) | st.sampled_from(list(EVERY.values())),
    POLICIES,
    st.timedeltas(timedelta(0), 9 * DAY),
)
@settings(always, max_examples=100)
def test_run_acted_on_is_acted_on_later_if_unchanged(run, evidence, policy, later):
    """With the same row, ledger and evidence, and no stamp ahead of the clock, time alone takes no verdict back.

    A backoff that is over stays over. Only run_timeout, passed later, may turn one verdict into another.
    """
    first, again = decide(run, evidence, policy, NOW), decide(run, evidence, policy, NOW + later)
    if first.action is not Action.LEAVE:
        assert again == first or (again.reason is Reason.TIMED_OUT and again.action is not Action.LEAVE)


@given(runs(history=histories(PAST)), evidences(), POLICIES, st.integers(0, 60))
@always
def test_backoff_ends_after_the_longest_wait(run, evidence, policy, steps):
    """No past may hold a run for ever: after the longest wait it is judged by the other rules."""
    longest = max([PUBLISH_GRACE, *policy.backoff])
    acts = [at for at in (run.history.last_action_at, run.history.unpublished_at) if at]
    after = max(acts, default=NOW) + longest + steps * MINUTE + TICK
    assert decide(run, evidence, policy, after).reason is not Reason.BACKOFF
