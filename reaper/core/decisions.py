"""Every rule of the reaper: given a run's facts and the evidence on it, what is to be done, and why. Pure: no I/O.

    decide(run, evidence, policy, now) -> Decision

The first rule that matches wins:

    phase    when                                                       action               reason
    any      finished                                                   leave                finished
    any      a status the adapter does not map                          leave                unknown_status
    any      a person has exempted it                                   leave                exempt
    any      its parent has ended                                       close, revoke        parent_ended
    QUEUED   our own last dispatch was not confirmed within 10 s        republish the same   unpublished
    any      acted on lately, within its backoff                        leave                backoff
    any      no usable timestamp (none, or all in the future)           leave                no_clock
    RUNNING  older than run_timeout                                     on_timeout           timed_out
    RUNNING  held, but no progress for stall_timeout                    on_timeout           stalled
    RUNNING  held by a live worker                                      leave                held
    RUNNING  not held, but its task retries in place and waits          leave                returning
    RUNNING  its worker is dead, or alive and without it                on_orphan            orphaned
    RUNNING  otherwise: within orphan_grace, or cannot be known         leave                young, unknown
    QUEUED   a worker executes it for longer than run_timeout           on_timeout           timed_out
    QUEUED   held by a live worker (reserved, rate-limited, ETA)        leave                reserved
    QUEUED   its message waits in the broker                            leave                backlog
    QUEUED   no task id, older than lost_grace                          requeue              never_sent
    QUEUED   no worker has it and no message exists, on two looks       requeue              lost
    QUEUED   delivered to a worker that is dead, or that has it not     requeue              stranded
    QUEUED   cannot be known, older than queue_timeout, and a run       requeue              overtaken
             dispatched at least that much later has started
    QUEUED   otherwise: within lost_grace, or cannot be known           leave                young, unknown

Evidence buys speed, only time replaces it, and what cannot be known is left alone. So the verdicts orphaned, lost and
stranded want two things besides what they say. The task's absence from every live worker is known: all their reports
are whole, and none that answered an inspect contradicts. And there is a witness: a worker that consumes the run's queue
has reported without a gap for a whole silence limit, and lately. Without one it may be the database or the network that
was silent.

A task is killed only where a worker reports it as executing. Strict everywhere: exactly at a limit is left alone, the
next moment is not. A requeue beyond its budget becomes a fail: a run that was started and lost again and again is
poison, one that never starts has no worker to run it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from reaper.core.facts import MAX_CLOCK_AHEAD, Evidence, History, Liveness, MessageLocation, Phase, RunFacts, hostname

# A sweep publishes right after its commit, and the broker's answer is bounded (broker.BOUNDS). Within this time it may
# be about to publish, and another sweep would send a second copy.
PUBLISH_GRACE = timedelta(seconds=10)


class Action(StrEnum):
    """What is to be done with a run. Leaving it alone is a decision too."""

    LEAVE = "leave"
    REQUEUE = "requeue"
    REPUBLISH = "republish"
    FAIL = "fail"
    CLOSE = "close"


class Mode(StrEnum):
    """How a kind is swept."""

    ACT = "act"
    DRY_RUN = "dry_run"  # the same decisions, noted and not carried out
    OFF = "off"


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
    EXEMPT = "exempt", "a person has exempted it"
    PARENT_ENDED = "parent_ended", "its parent had ended"
    UNPUBLISHED = "unpublished", "its last dispatch was never confirmed by the broker"
    BACKOFF = "backoff", "it was acted on a short while ago"
    NO_TIMESTAMP = "no_timestamp", "it has no timestamp that can be trusted"
    TIMED_OUT = "timed_out", "it was running for longer than its run timeout"
    NEVER_SENT = "never_sent", "no task was ever sent for it"
    STALLED = "stalled", "its task made no progress for longer than its stall timeout"
    IN_PROGRESS = "in_progress", "a live worker is working on it"
    RETRY_SCHEDULED = "retry_scheduled", "its own retry is waiting in the queue"
    ORPHANED = "orphaned", "no worker was working on it any more"
    RESERVED = "reserved", "a live worker has its task and will start it"
    BACKLOG = "backlog", "its message is waiting in the queue"
    LOST = "lost", "its message was gone and no worker had its task"
    STRANDED = "stranded", "its message had been delivered to a worker that did not have it any more"
    OVERTAKEN = "overtaken", "runs that were sent much later had started"
    WITHIN_GRACE = "within_grace", "it is within its limits"
    INCONCLUSIVE = "inconclusive", "what is behind it cannot be known"
    JUDGING_FAILED = "judging_failed", "the rules could not judge it (the log says why)"
    CHILDREN_ENDED = "children_ended", "all its children have ended"
    MANUAL = "manual", "a person asked for it"


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """The thresholds of one kind of run. Defaults are the runbook's where it names one."""

    run_timeout: timedelta = timedelta(hours=1)
    queue_timeout: timedelta = timedelta(minutes=15)
    # A held run without any progress for this long has stalled; None where the kind records no progress.
    stall_timeout: timedelta | None = None
    # No start and no progress for this long: a claim and the report of it may cross.
    orphan_grace: timedelta = timedelta(seconds=5)
    # A run that was never sent may still be waiting for its dispatcher's batch; a message may be on its way.
    lost_grace: timedelta = timedelta(seconds=30)
    # A run that is running for longer than this is worth a warning.
    alert_after: timedelta = timedelta(minutes=30)
    # REQUEUE only for kinds whose work may be done twice.
    on_timeout: Action = Action.FAIL
    on_orphan: Action = Action.FAIL
    # Requeues of a run that had been started; the next loss makes it poison.
    max_requeues: int = 3
    # Requeues of a run that had not been started: its messages get lost, which is not its fault.
    max_redispatches: int = 5
    # Requeues of a run that was cut off by its worker's announced end: a deploy or an eviction is no poison.
    max_interruptions: int = 10
    # Waiting time after the first, second and every further action on the same run.
    backoff: Sequence[timedelta] = (timedelta(seconds=30), timedelta(minutes=2), timedelta(minutes=8))
    # Runs acted on in one sweep; the rest waits for the next one.
    max_actions: int = 5000
    # Unless somebody has switched it otherwise.
    mode: Mode = Mode.ACT


class Decision(NamedTuple):
    """What is to be done with one run, and why."""

    action: Action
    reason: Reason
    # Kill the task where it runs, instead of only forbidding it to start.
    terminate: bool = False
    # The run would have been requeued, but its budget is spent.
    exhausted: bool = False
    # The run was cut off by its worker's announced end: it counts against another budget.
    interrupted: bool = False

    @property
    def code(self) -> str:
        """Return the word for the run's error code: `poison` when the budget is spent, else the reason."""
        return "poison" if self.exhausted else str(self.reason)


# Verdicts by which a run is left alone because all is well with it; the others are suspects.
HEALTHY_REASONS = (
    *(Reason.FINISHED, Reason.EXEMPT, Reason.BACKOFF, Reason.IN_PROGRESS, Reason.RETRY_SCHEDULED),
    *(Reason.RESERVED, Reason.BACKLOG, Reason.WITHIN_GRACE),
)
# Verdicts that rest on a task's absence from all workers: before them the workers are asked themselves.
ABSENCE_REASONS = (Reason.ORPHANED, Reason.LOST, Reason.STRANDED)


def leave(reason: Reason) -> Decision:
    """Return the decision to do nothing."""
    return Decision(Action.LEAVE, reason)


def decide(run: RunFacts, evidence: Evidence, policy: Policy, now: datetime) -> Decision:
    """Return what is to be done with the run. Total: every run gets a decision, whatever its row holds."""
    # guard: what is finished
    if run.phase is Phase.FINISHED:
        return leave(Reason.FINISHED)
    # guard: a status that is not known
    if run.phase not in (Phase.QUEUED, Phase.RUNNING):
        return leave(Reason.UNKNOWN_STATUS)
    # guard: exempted
    if run.exempt:
        return leave(Reason.EXEMPT)
    # guard: the parent has ended
    if run.parent_ended:
        return Decision(Action.CLOSE, Reason.PARENT_ENDED)
    # guard: unpublished
    if run.phase is Phase.QUEUED and run.task_id and run.history.unpublished_task_id == run.task_id:
        # guard: about to be published
        if about_to_be_published(run.history, now):
            return leave(Reason.BACKOFF)
        return Decision(Action.REPUBLISH, Reason.UNPUBLISHED)
    # guard: backoff
    if in_backoff(run.history, policy, now):
        return leave(Reason.BACKOFF)
    age = run.age(now)
    # guard: no clock
    if age is None:
        return leave(Reason.NO_TIMESTAMP)
    rules = decide_running if run.phase is Phase.RUNNING else decide_queued
    return rules(run, evidence, policy, now, age)


def decide_running(run: RunFacts, evidence: Evidence, policy: Policy, now: datetime, age: timedelta) -> Decision:
    """The rules of a run that has started."""
    quiet = run.idle_for(now)
    quiet = age if quiet is None else quiet
    executing = evidence.active_since is not None
    if age > policy.run_timeout:
        return fail_or_requeue(run, policy.on_timeout, policy, Reason.TIMED_OUT, terminate=executing)
    if evidence.holder:
        if policy.stall_timeout is not None and quiet > policy.stall_timeout:
            return fail_or_requeue(run, policy.on_timeout, policy, Reason.STALLED, terminate=executing)
        # guard: held
        return leave(Reason.IN_PROGRESS)
    if evidence.retry_waiting:
        return leave(Reason.RETRY_SCHEDULED)
    # guard: the grace of an orphan
    if quiet <= policy.orphan_grace:
        return leave(Reason.WITHIN_GRACE)
    # guard: the worker let it go
    if evidence.is_surely_absent and claimant_released(run, evidence):
        # guard: a running one that is not known
        return fail_or_requeue(run, policy.on_orphan, policy, Reason.ORPHANED, interrupted=evidence.shutdown_announced)
    return leave(Reason.INCONCLUSIVE)


def claimant_released(run: RunFacts, evidence: Evidence) -> bool:
    """True when the worker that began the run cannot be working on it any more."""
    if evidence.claimant_liveness is Liveness.DEAD:
        return True
    if evidence.claimant_liveness is Liveness.ALIVE:
        # Its report, taken after the run's last sign of life and by the same clock, is without the task.
        listed, sign = evidence.claimant_listed_at, run.last_activity_at
        return listed is not None and sign is not None and listed > sign
    # A dead worker that had a copy of the message tells nothing of another one that the row names.
    if evidence.last_holder and run.worker in ("", hostname(evidence.last_holder)):
        return True
    if run.worker:
        return False
    # Nobody knows who began it; but whoever is alive was watched since before, and does not have it.
    watched, started = evidence.fleet_watched_since, run.started_at
    return watched is not None and started is not None and watched < started


def decide_queued(run: RunFacts, evidence: Evidence, policy: Policy, now: datetime, age: timedelta) -> Decision:
    """The rules of a run that waits for a worker."""
    if evidence.active_since is not None and now - evidence.active_since > policy.run_timeout:
        return fail_or_requeue(run, policy.on_timeout, policy, Reason.TIMED_OUT, terminate=True)
    if evidence.holder:
        return leave(Reason.RESERVED)
    if evidence.message_location is MessageLocation.WAITING:
        return leave(Reason.BACKLOG)
    # guard: the grace of a lost one
    if age <= policy.lost_grace:
        return leave(Reason.WITHIN_GRACE)
    if not run.task_id:
        return requeue(run, policy, Reason.NEVER_SENT)
    # guard: two looks
    if evidence.is_surely_absent and evidence.message_location is MessageLocation.ABSENT and evidence.is_confirmed:
        return requeue(run, policy, Reason.LOST)
    if (
        evidence.is_surely_absent
        and evidence.message_location is MessageLocation.DELIVERED
        and (evidence.last_holder or evidence.is_confirmed)
    ):
        return requeue(run, policy, Reason.STRANDED)
    if evidence.message_location is MessageLocation.UNKNOWN and age > policy.queue_timeout and evidence.overtaken:
        # guard: a waiting one that is not known
        return requeue(run, policy, Reason.OVERTAKEN)
    return leave(Reason.INCONCLUSIVE)


def alert_for(run: RunFacts, policy: Policy, now: datetime) -> str:
    """Return why a run is worth a warning, `long_running` or `backlog`; '' when it is not."""
    age = run.age(now)
    if age is not None and run.phase is Phase.RUNNING and age > policy.alert_after:
        return "long_running"
    if age is not None and run.phase is Phase.QUEUED and age > policy.queue_timeout:
        return "backlog"
    return ""


def fail_or_requeue(
    run: RunFacts, how: Action, policy: Policy, reason: Reason, *, terminate: bool = False, interrupted: bool = False
) -> Decision:
    """Return the fail, or the requeue where the kind's work may be done twice."""
    if how is Action.REQUEUE:
        return requeue(run, policy, reason, terminate=terminate, interrupted=interrupted)
    return Decision(Action.FAIL, reason, terminate)


def requeue(
    run: RunFacts, policy: Policy, reason: Reason, *, terminate: bool = False, interrupted: bool = False
) -> Decision:
    """Return the requeue, or the fail that takes its place when the run's budget is spent."""
    history = run.history
    if run.phase is not Phase.RUNNING:
        # guard: the budget of redispatches
        spent = history.redispatches >= policy.max_redispatches
    elif interrupted:
        # guard: the budget of interruptions
        spent = history.interruptions >= policy.max_interruptions
    else:
        # guard: the budget of requeues
        spent = history.requeues >= policy.max_requeues
    return Decision(
        Action.FAIL if spent else Action.REQUEUE, reason, terminate, exhausted=spent, interrupted=interrupted
    )


def in_backoff(history: History, policy: Policy, now: datetime) -> bool:
    """True while the waiting time after the last action on this run is not over."""
    count = history.requeues + history.redispatches + history.interruptions
    if not count or not policy.backoff or history.last_action_at is None:
        return False
    wait = policy.backoff[min(count, len(policy.backoff)) - 1]
    # An action in the future is a clock that was set back; it must not hold a run for ever.
    return timedelta(0) <= now - history.last_action_at <= wait


def about_to_be_published(history: History, now: datetime) -> bool:
    """True while the sweep that made the last dispatch may still be publishing it."""
    made = history.unpublished_at
    # One in the near future was made by a sweep that overlaps this one.
    return made is not None and made <= now + MAX_CLOCK_AHEAD and now - made <= PUBLISH_GRACE
