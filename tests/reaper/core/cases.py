"""Runs and evidence that the tests of the rules and of their words share, and rows of the table of decisions."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from reaper.core.decisions import Decision
from reaper.core.facts import NO_EVIDENCE, Evidence, History, Liveness, MessageLocation, Phase, RunFacts
from reaper.core.policy import Action, Policy
from reaper.core.reasons import Reason
from tests.factories import NOW, SECOND

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


def decision_of(fate):
    """The decision that a fate in words names."""
    action, reason, *flags = fate.split()
    return Decision(Action(action), Reason(reason), **dict.fromkeys(flags, True))


def executed(ago):
    """A worker executes the task since `ago`."""
    return Evidence(holder=W1, active_since=NOW - ago)
