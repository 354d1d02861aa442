"""The rules: the golden table by hand, then what must hold whatever a row and the evidence may say. No database."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reaper.core.decisions import PUBLISH_GRACE, Decision, alert_for, decide
from reaper.core.facts import NO_EVIDENCE, Evidence, History, Liveness, MessageLocation, Phase, RunFacts
from reaper.core.policy import Action, Policy
from reaper.core.reasons import ABSENCE_REASONS, Reason
from tests.worlds import NOW, SECOND

TICK = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
POLICY = Policy()
REPEATS = Policy(on_timeout=Action.REQUEUE, on_orphan=Action.REQUEUE)
STALLS = Policy(stall_timeout=10 * MINUTE)
YEAR_ONE, END_OF_TIME = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
W1, W2 = "celery@w1/abc", "celery@w2/def"


def queued(ago=timedelta(0), **facts):
    """A run that was sent `ago`."""
    stamps = {"created_at": NOW - ago, "queued_at": NOW - ago, "status": "pending", "task_id": "t1"}
    return RunFacts(kind="order", pk="7", phase=Phase.QUEUED, **{**stamps, **facts})


def running(ago=timedelta(0), **facts):
    """A run that w1 claimed `ago`."""
    claimed = {"phase": Phase.RUNNING, "status": "running", "started_at": NOW - ago, "worker": W1}
    return replace(queued(ago), **{**claimed, **facts})


def never_sent(ago, **facts):
    return queued(ago, **{"task_id": "", "queued_at": None, **facts})


def timeless(run):
    return replace(run, created_at=None, queued_at=None, started_at=None, progress_at=None)


def acted(ago=HOUR, **past):
    """A past in which the reaper acted, the last time `ago`."""
    return History(last_action_at=NOW - ago, **past)


def sent(ago):
    """A past whose last dispatch was made `ago` and was never confirmed."""
    return History(redispatches=1, last_action_at=NOW - ago, unpublished_task_id="t1", unpublished_at=NOW - ago)


UNPUBLISHED = History(redispatches=1, last_action_at=NOW, unpublished_task_id="t1")

# What the workers and the broker may say; each is all that its verdict needs, and nothing more.
WORKED_ON = Evidence(holder=W1, active_since=NOW - MINUTE)
KEPT = Evidence(holder=W1)
DEAD = Evidence(absent=True, witness=W2, claimant_liveness=Liveness.DEAD)
LET_GO = Evidence(absent=True, witness=W2, claimant_liveness=Liveness.ALIVE, claimant_listed_at=NOW - SECOND)
NAMED = Evidence(absent=True, witness=W2, last_holder=W1)
WATCHED = Evidence(absent=True, witness=W2, fleet_watched_since=NOW - HOUR)
RETURNS = Evidence(absent=True, witness=W2, retry_waiting=True)
WAITING = Evidence(absent=True, witness=W2, message_location=MessageLocation.WAITING)
LOST = Evidence(
    absent=True,
    witness=W2,
    message_location=MessageLocation.ABSENT,
    first_sighting_at=NOW - MINUTE,
    all_reported_since=True,
)
STRANDED = replace(LOST, message_location=MessageLocation.DELIVERED)
STRANDED_BY_NAME = replace(NAMED, message_location=MessageLocation.DELIVERED)
OVERTAKEN = Evidence(overtaken=True)
EVERY = {
    "nothing": NO_EVIDENCE,
    "worked on": WORKED_ON,
    "kept": KEPT,
    "dead": DEAD,
    "let go": LET_GO,
    "named": NAMED,
    "watched": WATCHED,
    "retry_waiting": RETURNS,
    "waiting": WAITING,
    "lost": LOST,
    "stranded": STRANDED,
    "stranded by name": STRANDED_BY_NAME,
    "overtaken": OVERTAKEN,
}


def row(name, run, fate, evidence=NO_EVIDENCE, policy=POLICY):
    """One row of the golden table. `fate`: action, reason, and the flags that are set."""
    return pytest.param(run, evidence, policy, fate, id=name)


def of(fate):
    """The decision that a fate in words names."""
    action, reason, *flags = fate.split()
    return Decision(Action(action), Reason(reason), **dict.fromkeys(flags, True))


# --- the golden table: any phase ----------------------------------------------------------------------------------


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
def test_what_comes_before_all_evidence(run, fate, evidence):
    assert decide(run, evidence, POLICY, NOW) == of(fate)


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
def test_the_fate_of_any_run(run, evidence, policy, fate):
    assert decide(run, evidence, policy, NOW) == of(fate)


# --- the golden table: RUNNING ------------------------------------------------------------------------------------


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
def test_the_fate_of_a_run_that_is_running(run, evidence, policy, fate):
    assert decide(run, evidence, policy, NOW) == of(fate)


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
def test_every_verdict_by_absence_needs_a_known_absence_and_a_witness(run, evidence, missing):
    assert decide(run, evidence, POLICY, NOW).reason in ABSENCE_REASONS
    assert decide(run, replace(evidence, **missing), POLICY, NOW).action is Action.LEAVE


# --- the golden table: QUEUED -------------------------------------------------------------------------------------


def executed(ago):
    """A worker executes the task since `ago`."""
    return Evidence(holder=W1, active_since=NOW - ago)


@pytest.mark.parametrize(
    ("run", "evidence", "policy", "fate"),
    [
        # timed_out: the claim hangs
        row("executed, at run_timeout", queued(DAY), "leave reserved", executed(HOUR)),
        row("executed, one second more", queued(DAY), "fail timed_out terminate", executed(HOUR + SECOND)),
        row("executed, may be repeated", queued(DAY), "requeue timed_out terminate", executed(DAY), REPEATS),
        row("executed, its clock is ahead", queued(DAY), "leave reserved", executed(-DAY)),
        row("young, but executed", queued(SECOND), "fail timed_out terminate", executed(HOUR + SECOND)),
        row("kept for long", queued(DAY), "leave reserved", KEPT),
        # reserved wins over what the broker says
        row("reserved", queued(MINUTE), "leave reserved", KEPT),
        row("reserved, within lost_grace", queued(), "leave reserved", KEPT),
        row("reserved, waiting too", queued(MINUTE), "leave reserved", replace(WAITING, holder=W1)),
        row("reserved, overtaken", queued(DAY), "leave reserved", replace(OVERTAKEN, holder=W1)),
        row("reserved, no task id", queued(DAY, task_id=""), "leave reserved", KEPT),
        # backlog
        row("waiting", queued(MINUTE), "leave backlog", WAITING),
        row("waiting, within lost_grace", queued(), "leave backlog", WAITING),
        row("waiting, for days", queued(9 * DAY), "leave backlog", WAITING),
        row("waiting, overtaken", queued(DAY), "leave backlog", replace(WAITING, overtaken=True)),
        row(
            "waiting, seen twice", queued(DAY), "leave backlog", replace(LOST, message_location=MessageLocation.WAITING)
        ),
        row(
            "waiting, nobody is alive", queued(DAY), "leave backlog", Evidence(message_location=MessageLocation.WAITING)
        ),
        # never_sent
        row("never sent, at lost_grace", never_sent(30 * SECOND), "leave within_grace"),
        row("never sent, one moment more", never_sent(30 * SECOND + TICK), "requeue never_sent"),
        row("never sent, one second more", never_sent(31 * SECOND), "requeue never_sent"),
        row("never sent, NULL", never_sent(31 * SECOND, task_id=None), "requeue never_sent"),
        row("never sent, made long ago, queued now", queued(created_at=NOW - DAY, task_id=""), "leave within_grace"),
        row("never sent, nothing is held", never_sent(DAY), "requeue never_sent", Evidence(absent=True, witness=W2)),
        row("sent", queued(31 * SECOND), "leave inconclusive"),
        # lost: in two looks
        row("lost, at lost_grace", queued(30 * SECOND), "leave within_grace", LOST),
        row("lost, one second more", queued(31 * SECOND), "requeue lost", LOST),
        row("lost, on one look", queued(DAY), "leave inconclusive", replace(LOST, first_sighting_at=None)),
        row(
            "lost, not all were heard since", queued(DAY), "leave inconclusive", replace(LOST, all_reported_since=False)
        ),
        row(
            "lost, it cannot be looked up",
            queued(MINUTE),
            "leave inconclusive",
            replace(LOST, message_location=MessageLocation.UNKNOWN),
        ),
        row("lost, of any kind", queued(MINUTE), "requeue lost", LOST, Policy(on_orphan=Action.FAIL)),
        row("lost, overtaken", queued(DAY), "requeue lost", replace(LOST, overtaken=True)),
        row(
            "lost, a dead worker had it, on one look",
            queued(DAY),
            "leave inconclusive",
            replace(NAMED, message_location=MessageLocation.ABSENT),
        ),
        # stranded: in two looks, or named by a dead worker
        row("stranded, at lost_grace", queued(30 * SECOND), "leave within_grace", STRANDED),
        row("stranded, one second more", queued(31 * SECOND), "requeue stranded", STRANDED),
        row("stranded, on one look", queued(DAY), "leave inconclusive", replace(STRANDED, first_sighting_at=None)),
        row(
            "stranded, not all were heard since",
            queued(DAY),
            "leave inconclusive",
            replace(STRANDED, all_reported_since=False),
        ),
        row("stranded by name, at lost_grace", queued(30 * SECOND), "leave within_grace", STRANDED_BY_NAME),
        row("stranded by name, one second more", queued(31 * SECOND), "requeue stranded", STRANDED_BY_NAME),
        row("named by a dead worker, not delivered", queued(DAY), "leave inconclusive", NAMED),
        # overtaken
        row("overtaken, at queue_timeout", queued(15 * MINUTE), "leave inconclusive", OVERTAKEN),
        row("overtaken, one second more", queued(15 * MINUTE + SECOND), "requeue overtaken", OVERTAKEN),
        row("old, not overtaken", queued(DAY), "leave inconclusive"),
        row(
            "overtaken, seen absent once",
            queued(DAY),
            "leave inconclusive",
            replace(OVERTAKEN, message_location=MessageLocation.ABSENT),
        ),
        row(
            "overtaken, delivered",
            queued(DAY),
            "leave inconclusive",
            replace(OVERTAKEN, message_location=MessageLocation.DELIVERED),
        ),
        row(
            "overtaken, nobody holds it", queued(DAY), "requeue overtaken", replace(OVERTAKEN, absent=True, witness=W2)
        ),
        # young: what an earlier attempt left behind is no age
        row("within_grace", queued(30 * SECOND), "leave within_grace"),
        row(
            "an earlier start", queued(SECOND, started_at=NOW - DAY, progress_at=NOW - DAY), "leave within_grace", LOST
        ),
        row("queued, by created", queued(queued_at=None, created_at=NOW - MINUTE), "requeue lost", LOST),
        # evidence of another phase
        row("queued, returns", queued(DAY), "leave inconclusive", RETURNS),
        *[
            row(f"queued, {name}", queued(DAY, worker=W1), "leave inconclusive", EVERY[name])
            for name in ("dead", "let go", "watched", "named")
        ],
    ],
)
def test_the_fate_of_a_run_that_is_queued(run, evidence, policy, fate):
    assert decide(run, evidence, policy, NOW) == of(fate)


# --- the golden table: budgets ------------------------------------------------------------------------------------

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
def test_the_fate_of_a_run_that_was_requeued_before(run, evidence, policy, fate):
    assert decide(run, evidence, policy, NOW) == of(fate)


# --- overlapping sweeps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("evidence", [NO_EVIDENCE, DEAD, LET_GO], ids=["nothing", "dead", "let go"])
def test_a_run_claimed_while_the_sweep_reads_is_not_judged_on_the_time_it_waited(evidence):
    """The sweep's `now` is older than everything that it reads, so a start after it is the freshest there is."""
    claimed = running(HOUR + MINUTE, started_at=NOW + SECOND)
    assert decide(claimed, evidence, POLICY, NOW) == of("leave within_grace")


def test_a_run_sent_while_the_sweep_reads_is_not_judged_on_its_making():
    resent = queued(DAY, queued_at=NOW + SECOND)
    assert decide(resent, LOST, POLICY, NOW) == of("leave within_grace")


def test_a_requeue_is_a_dispatch_also_where_the_host_keeps_no_time_of_it():
    """Otherwise such a run would be overtaken again as soon as its backoff is over, and poison within minutes."""
    requeued = queued(HOUR, queued_at=None, history=acted(15 * MINUTE, redispatches=1))
    assert decide(requeued, OVERTAKEN, POLICY, NOW) == of("leave inconclusive")


# --- what comes with a decision -----------------------------------------------------------------------------------


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
def test_what_is_worth_a_warning(run, why):
    assert alert_for(run, POLICY, NOW) == why


def test_the_defaults_are_the_runbooks():
    assert (POLICY.run_timeout, POLICY.queue_timeout, POLICY.alert_after) == (HOUR, 15 * MINUTE, 30 * MINUTE)
    assert (POLICY.stall_timeout, POLICY.orphan_grace, POLICY.lost_grace) == (None, 5 * SECOND, 30 * SECOND)
    assert (POLICY.on_timeout, POLICY.on_orphan) == (Action.FAIL, Action.FAIL)
    assert (POLICY.max_requeues, POLICY.max_redispatches, POLICY.max_interruptions) == (3, 5, 10)
    assert (POLICY.max_actions, POLICY.backoff) == (5000, (30 * SECOND, 2 * MINUTE, 8 * MINUTE))


def test_every_reason_has_a_sentence_and_fits_its_column():
    for reason in Reason:
        assert reason.sentence
        assert len(reason) <= 50
        assert json.loads(json.dumps(reason)) == reason.value


# --- whatever a row and the evidence may say ----------------------------------------------------------------------

EAST, WEST = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))
ZONES = st.sampled_from([UTC, EAST, WEST])
EDGES = st.sampled_from([edge.replace(tzinfo=zone) for edge in (YEAR_ONE, END_OF_TIME) for zone in (UTC, EAST, WEST)])
STAMPS = st.none() | EDGES | st.datetimes(timezones=ZONES) | st.timedeltas(-2 * DAY, 2 * DAY).map(NOW.__add__)
PAST = st.none() | st.timedeltas(timedelta(0), 2 * DAY).map(NOW.__sub__)
SKEWS = st.just(timedelta(0)) | st.timedeltas(-DAY, DAY) | st.sampled_from([timedelta.min, timedelta.max])
IDS = st.sampled_from(["", None, "t1", "t2"])
COUNTS = st.integers(0, 8)
TEXTS = st.sampled_from(["", "pending", "running", "None", "é\x00x", "/", "//"])
WORKERS = st.sampled_from(["", W1, W2, "celery@w1", "/"])
SPANS = st.timedeltas(TICK, 3 * DAY)
ENDINGS = st.sampled_from([Action.FAIL, Action.REQUEUE])


def histories(stamps=STAMPS):
    texts, counts = (
        IDS.map(lambda task_id: task_id or ""),
        dict.fromkeys(["requeues", "redispatches", "interruptions"], COUNTS),
    )
    return st.builds(History, last_action_at=stamps, unpublished_task_id=texts, unpublished_at=stamps, **counts)


def runs(stamps=STAMPS, **given):
    facts = {
        "kind": st.just("order"),
        "pk": st.just("7"),
        "phase": st.sampled_from([Phase.RUNNING, Phase.QUEUED, *Phase]),
        "status": TEXTS,
        "task_id": IDS,
        "worker": WORKERS | TEXTS,
        "parent": st.sampled_from([None, "3"]),
        "parent_ended": st.sampled_from([False, False, False, True]),
        "exempt": st.sampled_from([False, False, False, False, True]),
        "history": st.just(History()) | histories(stamps),
        "skew": SKEWS,
        **dict.fromkeys(["created_at", "queued_at", "started_at", "progress_at"], stamps),
    }
    return st.builds(RunFacts, **{**facts, **given})


def evidences(stamps=STAMPS, **given):
    facts = {
        "holder": WORKERS,
        "absent": st.booleans(),
        "witness": WORKERS,
        "claimant_liveness": st.sampled_from(Liveness),
        "last_holder": WORKERS,
        "shutdown_announced": st.booleans(),
        "queue": TEXTS,
        "waiting": st.none() | COUNTS,
        "message_location": st.sampled_from(MessageLocation),
        "all_reported_since": st.booleans(),
        "retry_waiting": st.booleans(),
        "overtaken": st.booleans(),
        "uncertainties": st.lists(TEXTS, max_size=2).map(tuple),
        **dict.fromkeys(
            ["active_since", "fleet_watched_since", "claimant_seen_at", "claimant_listed_at", "first_sighting_at"],
            stamps,
        ),
    }
    return st.builds(Evidence, **{**facts, **given})


POLICIES = st.builds(
    Policy,
    run_timeout=SPANS,
    queue_timeout=SPANS,
    stall_timeout=st.none() | SPANS,
    orphan_grace=SPANS,
    lost_grace=SPANS,
    alert_after=SPANS,
    on_timeout=ENDINGS,
    on_orphan=ENDINGS,
    max_requeues=st.integers(0, 5),
    max_redispatches=st.integers(0, 5),
    max_interruptions=st.integers(0, 5),
    backoff=st.lists(SPANS, max_size=4).map(tuple),
)
always = settings(deadline=None, max_examples=50)


@given(runs(), evidences() | st.sampled_from(list(EVERY.values())), POLICIES)
@settings(always, max_examples=100)
def test_every_run_gets_a_decision(run, evidence, policy):
    decision = decide(run, evidence, policy, NOW)
    assert decision.action in Action
    assert decision.reason in Reason
    assert alert_for(run, policy, NOW) in ("", "long_running", "backlog")


@given(runs(phase=st.sampled_from([Phase.FINISHED, Phase.UNKNOWN])), evidences(), POLICIES)
@always
def test_what_is_finished_or_not_understood_is_never_touched(run, evidence, policy):
    assert decide(run, evidence, policy, NOW).action is Action.LEAVE


@given(runs(), evidences(holder=st.sampled_from([W1, W2])), POLICIES)
@always
def test_what_a_live_worker_holds_is_acted_on_only_when_it_takes_too_long(run, evidence, policy):
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
def test_what_is_not_known_is_acted_on_by_time_alone(run, evidence, policy):
    decision = decide(run, evidence, policy, NOW)
    assert decision.action is Action.LEAVE or decision.reason in BY_TIME


@given(runs(), evidences(), POLICIES)
@always
def test_a_requeue_is_within_its_budget_and_poison_is_beyond_it(run, evidence, policy):
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
def test_only_what_a_worker_executes_is_killed(run, evidence, policy):
    decision = decide(run, evidence, policy, NOW)
    if decision.terminate:
        assert evidence.active_since is not None
        assert decision.action in (Action.FAIL, Action.REQUEUE)


@given(runs(phase=st.just(Phase.RUNNING)), evidences(), POLICIES)
@always
def test_a_run_that_is_younger_than_its_limits_is_left(run, evidence, policy):
    """Whatever its age is taken from: unless a parent has ended, nothing is done within the shortest limit."""
    limits = [policy.run_timeout, policy.orphan_grace, *([policy.stall_timeout] if policy.stall_timeout else [])]
    ages = run.age(NOW), run.idle_for(NOW)
    if None not in ages and max(ages) <= min(limits) and not run.parent_ended:
        assert decide(run, evidence, policy, NOW).action is Action.LEAVE


@given(POLICIES)
@always
def test_exactly_at_a_limit_is_left_and_the_next_moment_is_not(policy):
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
def test_what_is_acted_on_is_acted_on_later_too_while_nothing_changes(run, evidence, policy, later):
    """With the same row, ledger and evidence, and no stamp ahead of the clock, time alone takes no verdict back.

    A backoff that is over stays over. Only run_timeout, passed later, may turn one verdict into another.
    """
    first, again = decide(run, evidence, policy, NOW), decide(run, evidence, policy, NOW + later)
    if first.action is not Action.LEAVE:
        assert again == first or (again.reason is Reason.TIMED_OUT and again.action is not Action.LEAVE)


@given(runs(history=histories(PAST)), evidences(), POLICIES, st.integers(0, 60))
@always
def test_a_backoff_ends(run, evidence, policy, steps):
    """No past may hold a run for ever: after the longest wait it is judged by the other rules."""
    longest = max([PUBLISH_GRACE, *policy.backoff])
    acts = [at for at in (run.history.last_action_at, run.history.unpublished_at) if at]
    after = max(acts, default=NOW) + longest + steps * MINUTE + TICK
    assert decide(run, evidence, policy, after).reason is not Reason.BACKOFF
