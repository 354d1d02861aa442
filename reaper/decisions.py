"""Every rule of the reaper: given a run's facts, what is to be done with it, and why. Pure: no I/O, `now` passed in.

    decide(run, evidence, policy, now) -> Decision

The first rule that matches wins:

    phase    when                                                       action               reason
    any      finished                                                   leave                finished
    any      a status the adapter does not map                          leave                unknown_status
    any      its parent has ended                                       close, revoke        parent_ended
    QUEUED   our own last dispatch was not confirmed within 10 s        republish the same   unpublished
    any      acted on lately, within its backoff                        leave                backoff
    any      no usable timestamp (none, or all in the future)           leave                no_clock
    RUNNING  older than run_timeout                                     on_timeout, terminate  timed_out
    QUEUED   no task id, older than lost_grace                          requeue              never_sent
    QUEUED   older than queue_timeout                                   requeue              overdue
    any      otherwise                                                  leave                young

Strict everywhere: exactly at a limit is left alone, the next moment is not. A requeue beyond its budget becomes a
fail: a run that was started and lost again and again is poison, one that never starts has no worker to run it.

`evidence` is what is known of the task behind the row. The rules above decide on time alone and do not read it yet.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

# How far ahead of `now` a timestamp may be and still be believed, as being now: a run may be sent or claimed while a
# sweep is under way, and clocks differ. Falling back to an earlier one would take a run that has just begun for old.
AHEAD = timedelta(hours=1)
# A sweep publishes right after its commit, and the broker's answer is bounded (broker.BOUNDS). Within this time it may
# be about to publish, and another sweep would send a second copy.
PUBLISH_GRACE = timedelta(seconds=10)


class Phase(StrEnum):
    """Where a run is in its life; the adapter maps its own statuses to these."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    UNKNOWN = "unknown"


class Action(StrEnum):
    """What is to be done with a run. Leaving it alone is a decision too."""

    LEAVE = "leave"
    REQUEUE = "requeue"
    REPUBLISH = "republish"
    FAIL = "fail"
    CLOSE = "close"


class Reason(StrEnum):
    """Why; `sentence` says it to a person."""

    sentence: str

    def __new__(cls, value: str, sentence: str) -> "Reason":
        """Make a member that is equal to its value and carries its sentence."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member

    FINISHED = "finished", "it has ended"
    UNKNOWN_STATUS = "unknown_status", "its status is none that the reaper knows"
    PARENT_ENDED = "parent_ended", "its parent had ended"
    UNPUBLISHED = "unpublished", "its last dispatch was never confirmed by the broker"
    BACKOFF = "backoff", "it was acted on a short while ago"
    NO_CLOCK = "no_clock", "it has no timestamp that can be trusted"
    TIMED_OUT = "timed_out", "it was running for longer than its run timeout"
    NEVER_SENT = "never_sent", "no task was ever sent for it"
    OVERDUE = "overdue", "it was waiting for a worker for longer than its queue timeout"
    YOUNG = "young", "it is within its limits"
    UNJUDGED = "unjudged", "the rules could not judge it (the log says why)"
    CHILDREN_ENDED = "children_ended", "all its children have ended"
    BY_HAND = "by_hand", "a person asked for it"


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """The thresholds of one kind of run. Defaults are the runbook's where it names one."""

    run_timeout: timedelta = timedelta(hours=1)
    queue_timeout: timedelta = timedelta(minutes=15)
    # A run that was never sent may still be waiting for its dispatcher's batch.
    lost_grace: timedelta = timedelta(seconds=30)
    # A run that is running for longer than this is worth a warning.
    alert_after: timedelta = timedelta(minutes=30)
    # REQUEUE only for kinds whose work may be done twice.
    on_timeout: Action = Action.FAIL
    # Requeues of a run that had been started; the next loss makes it poison.
    max_requeues: int = 3
    # Requeues of a run that had not been started: its messages get lost, which is not its fault.
    max_redispatches: int = 5
    # Waiting time after the first, second and every further action on the same run.
    backoff: Sequence[timedelta] = (timedelta(seconds=30), timedelta(minutes=2), timedelta(minutes=8))
    # Runs acted on in one sweep; the rest waits for the next one.
    max_actions: int = 5000


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """What the reaper did to a run before: applied actions since its last dispatch by hand, from the ledger."""

    requeues: int = 0
    redispatches: int = 0
    last_action_at: datetime | None = None
    # The task id of the reaper's own last dispatch while the broker has not confirmed it, and when it was made.
    unpublished: str = ""
    unpublished_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """One row as it was read. Every fact may be missing; datetimes are aware."""

    kind: str
    pk: str
    phase: Phase
    status: str = ""
    task_id: str | None = ""
    worker: str = ""
    created_at: datetime | None = None
    queued_at: datetime | None = None
    started_at: datetime | None = None
    progress_at: datetime | None = None
    parent: str | None = None
    parent_ended: bool = False
    history: History = field(default_factory=History)

    def since(self, now: datetime) -> datetime | None:
        """Return when the run's phase began: by the best of its timestamps that does not lie far in the future."""
        # Our own requeue is a dispatch, also where the host keeps no time of it.
        stamps = [self.queued_at, self.history.last_action_at, self.created_at]
        if self.phase is Phase.RUNNING:
            stamps = [self.started_at, self.progress_at, *stamps]
        return next((min(stamp, now) for stamp in stamps if stamp and stamp <= now + AHEAD), None)

    def age(self, now: datetime) -> timedelta | None:
        """Return how long the run has been in its phase, or None when no timestamp tells."""
        since = self.since(now)
        return None if since is None else now - since


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What is known of the task behind a row. Nothing yet: the rules decide on time alone."""


class Decision(NamedTuple):
    """What is to be done with one run, and why."""

    action: Action
    reason: Reason
    # Kill the task where it runs, instead of only forbidding it to start.
    terminate: bool = False
    # The run would have been requeued, but its budget is spent.
    exhausted: bool = False

    @property
    def code(self) -> str:
        """Return the word for the run's error code: `poison` when the budget is spent, else the reason."""
        return "poison" if self.exhausted else str(self.reason)


def leave(reason: Reason) -> Decision:
    """Return the decision to do nothing."""
    return Decision(Action.LEAVE, reason)


def decide(run: RunFacts, evidence: Evidence | None, policy: Policy, now: datetime) -> Decision:
    """Return what is to be done with the run. Total: every run gets a decision, whatever its row holds."""
    if run.phase is Phase.FINISHED:
        return leave(Reason.FINISHED)
    if run.phase not in (Phase.QUEUED, Phase.RUNNING):
        return leave(Reason.UNKNOWN_STATUS)
    if run.parent_ended:
        return Decision(Action.CLOSE, Reason.PARENT_ENDED)
    if run.phase is Phase.QUEUED and run.task_id and run.history.unpublished == run.task_id:
        if about_to_be_published(run.history, now):
            return leave(Reason.BACKOFF)
        return Decision(Action.REPUBLISH, Reason.UNPUBLISHED)
    if in_backoff(run.history, policy, now):
        return leave(Reason.BACKOFF)
    age = run.age(now)
    if age is None:
        return leave(Reason.NO_CLOCK)
    return decide_running(run, policy, age) if run.phase is Phase.RUNNING else decide_queued(run, policy, age)


def decide_running(run: RunFacts, policy: Policy, age: timedelta) -> Decision:
    """The rules of a run that has started."""
    if age > policy.run_timeout:
        if policy.on_timeout is Action.REQUEUE:
            return requeue(run, policy, Reason.TIMED_OUT, terminate=True)
        return Decision(Action.FAIL, Reason.TIMED_OUT, terminate=True)
    return leave(Reason.YOUNG)


def decide_queued(run: RunFacts, policy: Policy, age: timedelta) -> Decision:
    """The rules of a run that waits for a worker."""
    if not run.task_id and age > policy.lost_grace:
        return requeue(run, policy, Reason.NEVER_SENT)
    if age > policy.queue_timeout:
        return requeue(run, policy, Reason.OVERDUE)
    return leave(Reason.YOUNG)


def alert(run: RunFacts, policy: Policy, now: datetime) -> str:
    """Return why a run is worth a warning, `long_running` or `backlog`; '' when it is not."""
    age = run.age(now)
    if age is not None and run.phase is Phase.RUNNING and age > policy.alert_after:
        return "long_running"
    if age is not None and run.phase is Phase.QUEUED and age > policy.queue_timeout:
        return "backlog"
    return ""


def requeue(run: RunFacts, policy: Policy, reason: Reason, *, terminate: bool = False) -> Decision:
    """Return the requeue, or the fail that takes its place when the run's budget is spent."""
    started = run.phase is Phase.RUNNING
    spent = run.history.requeues >= policy.max_requeues
    if not started:
        spent = run.history.redispatches >= policy.max_redispatches
    return Decision(Action.FAIL if spent else Action.REQUEUE, reason, terminate, exhausted=spent)


def in_backoff(history: History, policy: Policy, now: datetime) -> bool:
    """True while the waiting time after the last action on this run is not over."""
    count = history.requeues + history.redispatches
    if not count or not policy.backoff or history.last_action_at is None:
        return False
    wait = policy.backoff[min(count, len(policy.backoff)) - 1]
    # An action in the future is a clock that was set back; it must not hold a run for ever.
    return timedelta(0) <= now - history.last_action_at <= wait


def about_to_be_published(history: History, now: datetime) -> bool:
    """True while the sweep that made the last dispatch may still be publishing it."""
    made = history.unpublished_at
    # One in the near future was made by a sweep that overlaps this one.
    return made is not None and made <= now + AHEAD and now - made <= PUBLISH_GRACE


def describe(run: RunFacts, decision: Decision, now: datetime, *, by: str = "") -> str:
    """Return the sentence that is written into the run: what happened, how long it was stuck, by which rule."""
    verb = {Action.REQUEUE: "Requeued", Action.CLOSE: "Closed"}.get(decision.action, "Failed")
    age = run.age(now)
    stuck = f" It had been {run.status} for {duration(age)}." if age is not None else ""
    spent = ""
    if decision.exhausted:
        spent = f" Given up after {run.history.requeues + run.history.redispatches} requeues."
    who = f"by {by}" if by else f"by the reaper because {decision.reason.sentence}"
    return f"{verb} {who} (rule {decision.reason}).{stuck}{spent}"


def duration(value: timedelta) -> str:
    """Return a duration as a person says it: its largest unit and the one below."""
    seconds = max(0, int(value.total_seconds()))
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    largest = next((index for index, (_, size) in enumerate(units) if seconds >= size), len(units) - 1)
    parts: list[str] = []
    for unit, size in units[largest : largest + 2]:
        count, seconds = divmod(seconds, size)
        if count or not parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts)
