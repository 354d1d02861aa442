"""The rules: the golden table by hand, then what must hold whatever a row may hold. No database."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reaper import decisions
from reaper.decisions import (
    Action,
    Decision,
    History,
    Phase,
    Policy,
    Reason,
    RunFacts,
    alert,
    decide,
    describe,
    duration,
)
from tests.worlds import NOW, SECOND

TICK = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
POLICY = Policy()
REQUEUE = Policy(on_timeout=Action.REQUEUE)


def queued(ago=timedelta(0), **facts):
    """A run that was sent `ago`."""
    stamps = {"created_at": NOW - ago, "queued_at": NOW - ago, "status": "pending", "task_id": "t1"}
    return RunFacts(kind="order", pk="7", phase=Phase.QUEUED, **{**stamps, **facts})


def running(ago=timedelta(0), **facts):
    """A run that was claimed `ago`."""
    claimed = {"phase": Phase.RUNNING, "status": "running", "started_at": NOW - ago}
    return replace(queued(ago), **{**claimed, **facts})


def never_sent(ago, **facts):
    return queued(ago, **{"task_id": "", "queued_at": None, **facts})


def acted(ago, requeues=0, redispatches=0, unpublished=""):
    """A past in which the reaper acted, the last time `ago`."""
    return History(requeues=requeues, redispatches=redispatches, last_action_at=NOW - ago, unpublished=unpublished)


def sent(ago):
    """A history whose last dispatch was made `ago` and was never confirmed."""
    return History(redispatches=1, last_action_at=NOW - ago, unpublished="t1", unpublished_at=NOW - ago)


GRACE = decisions.PUBLISH_GRACE
UNPUBLISHED = History(redispatches=1, last_action_at=NOW, unpublished="t1")
LEFT, FAILED, REQUEUED, REPUBLISHED, CLOSED = (
    Action.LEAVE,
    Action.FAIL,
    Action.REQUEUE,
    Action.REPUBLISH,
    Action.CLOSE,
)


@pytest.mark.parametrize(
    ("run", "policy", "expected"),
    [
        # any phase: finished, or a status that is none
        pytest.param(replace(running(DAY), phase=Phase.FINISHED), POLICY, (LEFT, "finished"), id="finished"),
        pytest.param(
            replace(running(DAY), phase=Phase.FINISHED, parent_ended=True), POLICY, (LEFT, "finished"), id="both ended"
        ),
        pytest.param(replace(running(DAY), phase=Phase.UNKNOWN), POLICY, (LEFT, "unknown_status"), id="unknown"),
        pytest.param(
            replace(running(DAY), phase=Phase.UNKNOWN, parent_ended=True),
            POLICY,
            (LEFT, "unknown_status"),
            id="unknown, its parent ended",
        ),
        pytest.param(replace(running(DAY), phase="odd"), POLICY, (LEFT, "unknown_status"), id="a phase that is none"),
        # its parent has ended: nothing else matters
        pytest.param(running(parent_ended=True), POLICY, (CLOSED, "parent_ended"), id="parent ended, running"),
        pytest.param(queued(parent_ended=True), POLICY, (CLOSED, "parent_ended"), id="parent ended, queued"),
        pytest.param(running(DAY, parent_ended=True), POLICY, (CLOSED, "parent_ended"), id="parent ended, too old"),
        pytest.param(
            queued(parent_ended=True, history=UNPUBLISHED), POLICY, (CLOSED, "parent_ended"), id="parent, unpublished"
        ),
        pytest.param(
            running(parent_ended=True, history=acted(SECOND, 1)), POLICY, (CLOSED, "parent_ended"), id="parent, backoff"
        ),
        pytest.param(queued(parent="3", parent_ended=False), POLICY, (LEFT, "young"), id="parent has not ended"),
        # unpublished: the same id again once its own sweep has had its time, whatever its age
        pytest.param(queued(history=sent(GRACE)), POLICY, (LEFT, "backoff"), id="unpublished, within the grace"),
        pytest.param(queued(history=sent(GRACE + SECOND)), POLICY, (REPUBLISHED, "unpublished"), id="grace over"),
        pytest.param(queued(history=sent(-SECOND)), POLICY, (LEFT, "backoff"), id="unpublished, by a later sweep"),
        pytest.param(queued(history=sent(-DAY)), POLICY, (REPUBLISHED, "unpublished"), id="unpublished, in the future"),
        pytest.param(queued(history=UNPUBLISHED), POLICY, (REPUBLISHED, "unpublished"), id="unpublished"),
        pytest.param(queued(DAY, history=UNPUBLISHED), POLICY, (REPUBLISHED, "unpublished"), id="unpublished, old"),
        pytest.param(
            queued(history=acted(DAY, 9, 9, "t1")), POLICY, (REPUBLISHED, "unpublished"), id="unpublished, budget spent"
        ),
        pytest.param(queued(task_id="t2", history=UNPUBLISHED), POLICY, (LEFT, "backoff"), id="another's id since"),
        pytest.param(queued(task_id="", history=History()), POLICY, (LEFT, "young"), id="no id is not unpublished"),
        pytest.param(queued(task_id=None, history=History()), POLICY, (LEFT, "young"), id="NULL is not unpublished"),
        pytest.param(running(history=UNPUBLISHED), POLICY, (LEFT, "backoff"), id="it did arrive: it runs"),
        # RUNNING by age
        pytest.param(running(HOUR), POLICY, (LEFT, "young"), id="running, at run_timeout"),
        pytest.param(running(HOUR + TICK), POLICY, (FAILED, "timed_out", True), id="running, the next moment"),
        pytest.param(running(HOUR + SECOND), POLICY, (FAILED, "timed_out", True), id="running, one second more"),
        pytest.param(
            running(HOUR + SECOND), REQUEUE, (REQUEUED, "timed_out", True), id="running too long, work may be repeated"
        ),
        pytest.param(
            running(SECOND, created_at=NOW - DAY, queued_at=NOW - DAY), POLICY, (LEFT, "young"), id="started just now"
        ),
        pytest.param(
            running(HOUR + SECOND, progress_at=NOW), POLICY, (FAILED, "timed_out", True), id="progress is no excuse"
        ),
        pytest.param(
            running(HOUR + SECOND, task_id=None), POLICY, (FAILED, "timed_out", True), id="running without a task id"
        ),
        # RUNNING without a start: progress, queued, created, in this order
        pytest.param(
            running(HOUR + SECOND, started_at=None, progress_at=NOW - MINUTE), POLICY, (LEFT, "young"), id="by progress"
        ),
        pytest.param(
            running(MINUTE, started_at=None, progress_at=NOW - HOUR - SECOND),
            POLICY,
            (FAILED, "timed_out", True),
            id="by old progress",
        ),
        pytest.param(
            running(started_at=None, queued_at=NOW - HOUR - SECOND), POLICY, (FAILED, "timed_out", True), id="by queued"
        ),
        pytest.param(
            running(started_at=None, queued_at=None, created_at=NOW - HOUR - SECOND),
            POLICY,
            (FAILED, "timed_out", True),
            id="by created",
        ),
        pytest.param(
            running(started_at=None, queued_at=None, created_at=None), POLICY, (LEFT, "no_clock"), id="by nothing"
        ),
        # QUEUED by age
        pytest.param(queued(15 * MINUTE), POLICY, (LEFT, "young"), id="queued, at queue_timeout"),
        pytest.param(queued(15 * MINUTE + TICK), POLICY, (REQUEUED, "overdue"), id="queued, the next moment"),
        pytest.param(queued(15 * MINUTE + SECOND), POLICY, (REQUEUED, "overdue"), id="queued, one second more"),
        pytest.param(queued(MINUTE, created_at=NOW - DAY), POLICY, (LEFT, "young"), id="sent just now, made long ago"),
        pytest.param(
            queued(MINUTE, started_at=NOW - DAY, progress_at=NOW - DAY), POLICY, (LEFT, "young"), id="an earlier start"
        ),
        pytest.param(
            queued(queued_at=None, created_at=NOW - HOUR), POLICY, (REQUEUED, "overdue"), id="queued, by created"
        ),
        pytest.param(queued(queued_at=None, created_at=None), POLICY, (LEFT, "no_clock"), id="queued, by nothing"),
        pytest.param(never_sent(30 * SECOND), POLICY, (LEFT, "young"), id="never sent, at lost_grace"),
        pytest.param(
            never_sent(30 * SECOND + TICK), POLICY, (REQUEUED, "never_sent"), id="never sent, the next moment"
        ),
        pytest.param(never_sent(31 * SECOND, task_id=None), POLICY, (REQUEUED, "never_sent"), id="never sent, NULL id"),
        pytest.param(never_sent(DAY), POLICY, (REQUEUED, "never_sent"), id="never sent, long ago"),
        pytest.param(queued(31 * SECOND), POLICY, (LEFT, "young"), id="sent, beyond lost_grace"),
        # clocks that lie far ahead: what is left of them
        pytest.param(
            queued(queued_at=NOW + DAY, created_at=NOW - HOUR), POLICY, (REQUEUED, "overdue"), id="queued in the future"
        ),
        pytest.param(
            running(started_at=NOW + DAY, queued_at=NOW + DAY, created_at=NOW + DAY),
            POLICY,
            (LEFT, "no_clock"),
            id="all in the future",
        ),
        pytest.param(
            running(started_at=NOW + DAY, progress_at=NOW - MINUTE),
            POLICY,
            (LEFT, "young"),
            id="future start, progress",
        ),
        pytest.param(running(started_at=NOW), POLICY, (LEFT, "young"), id="started this moment"),
        pytest.param(
            running(HOUR + SECOND, started_at=NOW + HOUR), POLICY, (LEFT, "young"), id="a clock that is an hour ahead"
        ),
        pytest.param(
            running(HOUR + SECOND, started_at=NOW + HOUR + TICK),
            POLICY,
            (FAILED, "timed_out", True),
            id="a clock that cannot be believed",
        ),
        pytest.param(
            running(started_at=datetime.max.replace(tzinfo=UTC), queued_at=None, created_at=None),
            POLICY,
            (LEFT, "no_clock"),
            id="the end of time",
        ),
        pytest.param(
            running(started_at=datetime.min.replace(tzinfo=UTC)), POLICY, (FAILED, "timed_out", True), id="year one"
        ),
        # backoff: 30 s, 2 min, 8 min, and 8 min for ever
        *[
            pytest.param(
                running(HOUR + SECOND, history=acted(wait, requeues)),
                REQUEUE,
                (LEFT, "backoff"),
                id=f"backoff at its limit, {requeues}",
            )
            for requeues, wait in ((1, 30 * SECOND), (2, 2 * MINUTE), (3, 8 * MINUTE), (7, 8 * MINUTE))
        ],
        *[
            pytest.param(
                running(HOUR + SECOND, history=acted(wait + TICK, requeues)),
                replace(REQUEUE, max_requeues=9),
                (REQUEUED, "timed_out", True),
                id=f"backoff over, {requeues}",
            )
            for requeues, wait in ((1, 30 * SECOND), (2, 2 * MINUTE), (3, 8 * MINUTE), (7, 8 * MINUTE))
        ],
        pytest.param(
            never_sent(DAY, history=acted(2 * MINUTE, 1, 1)), POLICY, (LEFT, "backoff"), id="both kinds of act count"
        ),
        pytest.param(
            running(DAY, history=acted(-HOUR, 1)), POLICY, (FAILED, "timed_out", True), id="acted on in the future"
        ),
        pytest.param(
            running(DAY, history=acted(SECOND, 1)), Policy(backoff=()), (FAILED, "timed_out", True), id="no backoff set"
        ),
        pytest.param(
            running(DAY, history=History(requeues=1)), POLICY, (FAILED, "timed_out", True), id="acted on, but when"
        ),
        # budgets
        pytest.param(
            running(DAY, history=acted(HOUR, requeues=2, redispatches=9)),
            REQUEUE,
            (REQUEUED, "timed_out", True),
            id="a third requeue",
        ),
        pytest.param(
            running(DAY, history=acted(HOUR, requeues=3)), REQUEUE, (FAILED, "timed_out", True, True), id="poison"
        ),
        pytest.param(
            running(DAY, history=acted(HOUR, requeues=4)), REQUEUE, (FAILED, "timed_out", True, True), id="more poison"
        ),
        pytest.param(
            queued(DAY, history=acted(HOUR, requeues=9, redispatches=4)),
            POLICY,
            (REQUEUED, "overdue"),
            id="a fifth redispatch",
        ),
        pytest.param(
            queued(DAY, history=acted(HOUR, redispatches=5)),
            POLICY,
            (FAILED, "overdue", False, True),
            id="never starts",
        ),
        pytest.param(
            never_sent(DAY, history=acted(HOUR, redispatches=5)),
            POLICY,
            (FAILED, "never_sent", False, True),
            id="never to be sent",
        ),
        pytest.param(
            running(DAY),
            Policy(on_timeout=Action.REQUEUE, max_requeues=0),
            (FAILED, "timed_out", True, True),
            id="none",
        ),
        pytest.param(
            running(DAY, history=acted(HOUR, requeues=9)), POLICY, (FAILED, "timed_out", True), id="fail has no budget"
        ),
    ],
)
def test_the_fate_of(run, policy, expected):
    assert decide(run, None, policy, NOW) == Decision(expected[0], Reason(expected[1]), *expected[2:])


def test_a_run_claimed_while_the_sweep_reads_is_not_judged_on_the_time_it_waited():
    """The sweep's `now` is older than everything that it reads, so a start after it is the freshest there is."""
    claimed = running(HOUR + MINUTE, started_at=NOW + SECOND)
    assert decide(claimed, None, POLICY, NOW).action is Action.LEAVE


def test_a_run_sent_while_the_sweep_reads_is_not_judged_on_its_making():
    sent = queued(DAY, queued_at=NOW + SECOND)
    assert decide(sent, None, POLICY, NOW).action is Action.LEAVE


def test_a_requeue_is_a_dispatch_also_where_the_host_keeps_no_time_of_it():
    """Otherwise such a run would be overdue again as soon as its backoff is over, and poison within minutes."""
    requeued = queued(HOUR, queued_at=None, history=acted(15 * MINUTE, redispatches=1))
    assert decide(requeued, None, POLICY, NOW).action is Action.LEAVE


def test_a_run_is_never_younger_than_new():
    assert running(started_at=NOW + MINUTE).age(NOW) == timedelta(0)
    assert queued(queued_at=NOW + MINUTE).age(NOW) == timedelta(0)


@pytest.mark.parametrize(
    ("decision", "code"),
    [
        (Decision(Action.FAIL, Reason.TIMED_OUT), "timed_out"),
        (Decision(Action.FAIL, Reason.TIMED_OUT, exhausted=True), "poison"),
        (Decision(Action.CLOSE, Reason.PARENT_ENDED), "parent_ended"),
    ],
)
def test_the_error_code_of_a_decision(decision, code):
    assert decision.code == code
    assert len(code) <= 50


@pytest.mark.parametrize(
    ("run", "decision", "by", "sentence"),
    [
        (
            running(2 * HOUR),
            Decision(Action.FAIL, Reason.TIMED_OUT, terminate=True),
            "",
            "Failed by the reaper because it was running for longer than its run timeout (rule timed_out)."
            " It had been running for 2 h.",
        ),
        (
            queued(16 * MINUTE + 5 * SECOND),
            Decision(Action.REQUEUE, Reason.OVERDUE),
            "",
            "Requeued by the reaper because it was waiting for a worker for longer than its queue timeout"
            " (rule overdue). It had been pending for 16 min 5 s.",
        ),
        (
            queued(DAY, history=acted(HOUR, requeues=1, redispatches=5)),
            Decision(Action.FAIL, Reason.NEVER_SENT, exhausted=True),
            "",
            "Failed by the reaper because no task was ever sent for it (rule never_sent)."
            " It had been pending for 1 d. Given up after 6 requeues.",
        ),
        (
            running(MINUTE, parent_ended=True),
            Decision(Action.CLOSE, Reason.PARENT_ENDED),
            "",
            "Closed by the reaper because its parent had ended (rule parent_ended). It had been running for 1 min.",
        ),
        (
            running(MINUTE),
            Decision(Action.FAIL, Reason.BY_HAND),
            "ada",
            "Failed by ada (rule by_hand). It had been running for 1 min.",
        ),
        (
            running(started_at=None, queued_at=None, created_at=None),
            Decision(Action.FAIL, Reason.BY_HAND),
            "ada",
            "Failed by ada (rule by_hand).",
        ),
    ],
)
def test_the_sentence_says_what_happened_how_long_it_was_stuck_and_by_which_rule(run, decision, by, sentence):
    assert describe(run, decision, NOW, by=by) == sentence


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (timedelta(0), "0 s"),
        (timedelta(milliseconds=999), "0 s"),
        (-HOUR, "0 s"),
        (59 * SECOND, "59 s"),
        (MINUTE, "1 min"),
        (HOUR + SECOND, "1 h"),
        (HOUR + MINUTE + SECOND, "1 h 1 min"),
        (MINUTE + SECOND, "1 min 1 s"),
        (DAY + HOUR + MINUTE, "1 d 1 h"),
        (400 * DAY, "400 d"),
    ],
)
def test_a_duration_as_a_person_says_it(value, said):
    assert duration(value) == said


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
        (running(started_at=None, queued_at=None, created_at=None), ""),
    ],
)
def test_what_is_worth_a_warning(run, why):
    assert alert(run, POLICY, NOW) == why


def test_the_defaults_are_the_runbooks():
    assert (POLICY.run_timeout, POLICY.queue_timeout, POLICY.alert_after) == (HOUR, 15 * MINUTE, 30 * MINUTE)
    assert (POLICY.lost_grace, POLICY.on_timeout) == (30 * SECOND, Action.FAIL)
    assert (POLICY.max_requeues, POLICY.max_redispatches, POLICY.max_actions) == (3, 5, 5000)
    assert POLICY.backoff == (30 * SECOND, 2 * MINUTE, 8 * MINUTE)


def test_every_reason_has_a_sentence_and_fits_its_column():
    for reason in Reason:
        assert reason.sentence
        assert len(reason) <= 50
        assert json.loads(json.dumps(reason)) == reason.value


# --- whatever a row may hold --------------------------------------------------------------------------------------

ZONES = st.sampled_from([UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))])
STAMPS = st.none() | st.datetimes(timezones=ZONES) | st.timedeltas(-2 * DAY, 2 * DAY).map(NOW.__add__)
PAST = st.none() | st.timedeltas(timedelta(0), 2 * DAY).map(NOW.__sub__)
IDS = st.sampled_from(["", None, "t1", "t2"])
COUNTS = st.integers(0, 8)
TEXTS = st.sampled_from(["", "pending", "running", "None", "é\x00x"])
SPANS = st.timedeltas(TICK, 3 * DAY)


def histories(stamps):
    return st.builds(History, requeues=COUNTS, redispatches=COUNTS, last_action_at=stamps, unpublished=IDS.map(str))


def runs(stamps=STAMPS, **given):
    facts = {
        "kind": st.just("order"),
        "pk": st.just("7"),
        "phase": st.sampled_from(Phase),
        "status": TEXTS,
        "task_id": IDS,
        "worker": TEXTS,
        "parent": st.sampled_from([None, "3"]),
        "parent_ended": st.booleans(),
        "history": histories(stamps),
        **dict.fromkeys(["created_at", "queued_at", "started_at", "progress_at"], stamps),
    }
    return st.builds(RunFacts, **{**facts, **given})


POLICIES = st.builds(
    Policy,
    run_timeout=SPANS,
    queue_timeout=SPANS,
    lost_grace=SPANS,
    alert_after=SPANS,
    on_timeout=st.sampled_from([Action.FAIL, Action.REQUEUE]),
    max_requeues=st.integers(0, 5),
    max_redispatches=st.integers(0, 5),
    backoff=st.lists(SPANS, max_size=4).map(tuple),
)


@given(runs(), POLICIES)
@settings(deadline=None)
def test_every_run_gets_a_decision_and_a_sentence(run, policy):
    decision = decide(run, None, policy, NOW)
    assert decision.action in Action
    assert decision.reason in Reason
    assert describe(run, decision, NOW)
    assert alert(run, policy, NOW) in ("", "long_running", "backlog")


@given(runs(phase=st.sampled_from([Phase.FINISHED, Phase.UNKNOWN])), POLICIES)
@settings(deadline=None)
def test_what_is_finished_or_not_understood_is_never_touched(run, policy):
    assert decide(run, None, policy, NOW).action is Action.LEAVE


@given(runs(), POLICIES)
@settings(deadline=None)
def test_a_requeue_is_always_within_its_budget(run, policy):
    if decide(run, None, policy, NOW).action is Action.REQUEUE:
        if run.phase is Phase.RUNNING:
            assert run.history.requeues < policy.max_requeues
        else:
            assert run.history.redispatches < policy.max_redispatches


@given(runs(), POLICIES)
@settings(deadline=None)
def test_only_a_run_that_is_running_is_ever_killed(run, policy):
    assert not decide(run, None, policy, NOW).terminate or run.phase is Phase.RUNNING


@given(runs(phase=st.just(Phase.RUNNING)), POLICIES)
@settings(deadline=None)
def test_only_an_unfinished_run_without_ended_parent_beyond_its_timeout_is_failed_or_requeued(run, policy):
    decision = decide(run, None, policy, NOW)
    if decision.action in (Action.FAIL, Action.REQUEUE):
        stamps = [run.started_at, run.progress_at, run.queued_at, run.created_at, run.history.last_action_at]
        assert any(stamp and NOW - stamp > policy.run_timeout for stamp in stamps)


@given(POLICIES)
@settings(deadline=None)
def test_exactly_at_a_limit_is_left_and_the_next_moment_is_not(policy):
    for make, limit in (
        (running, policy.run_timeout),
        (queued, policy.queue_timeout),
        (never_sent, min(policy.lost_grace, policy.queue_timeout)),
    ):
        assert decide(make(limit), None, policy, NOW).action is Action.LEAVE
        assert decide(make(limit + TICK), None, policy, NOW).action is not Action.LEAVE


@given(runs(stamps=PAST, history=st.just(History())), POLICIES, st.timedeltas(timedelta(0), 9 * DAY))
@settings(deadline=None)
def test_what_is_acted_on_is_acted_on_later_too_while_nothing_changes(run, policy, later):
    first = decide(run, None, policy, NOW)
    if first.action is not Action.LEAVE:
        again = decide(run, None, policy, NOW + later)
        assert again.action is first.action


@given(runs(history=histories(PAST)), POLICIES, st.integers(0, 60))
@settings(deadline=None)
def test_a_backoff_ends(run, policy, steps):
    """No history may hold a run for ever: after the longest wait it is judged by the other rules."""
    longest = max(policy.backoff, default=timedelta(0))
    after = (run.history.last_action_at or NOW) + longest + steps * MINUTE + TICK
    assert decide(run, None, policy, after).reason is not Reason.BACKOFF


@given(runs(), POLICIES)
@settings(deadline=None)
def test_what_the_ledger_keeps_is_enough_to_decide_again(run, policy):
    kept = json.loads(json.dumps(asdict(run), default=str))
    assert decide(revived(kept), None, policy, NOW) == decide(run, None, policy, NOW)


def revived(facts):
    """A run from the facts that its ledger row keeps."""

    def read(values):
        return {
            name: datetime.fromisoformat(value) if name.endswith("_at") and value else value
            for name, value in values.items()
        }

    history = History(**read(facts["history"]))
    return RunFacts(**{**read(facts), "phase": Phase(facts["phase"]), "history": history})
