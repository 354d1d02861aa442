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

from dataclasses import dataclass
from datetime import datetime, timedelta

from reaper.core.facts import MAX_CLOCK_AHEAD, Evidence, History, Liveness, MessageLocation, Phase, RunFacts, hostname
from reaper.core.policy import Action, Policy
from reaper.core.reasons import Reason

# A sweep publishes right after its commit, and the broker's answer is bounded (broker.BOUNDS). Within this time it may
# be about to publish, and another sweep would send a second copy.
PUBLISH_GRACE = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with one run, and why."""

    action: Action
    """What to do; LEAVE is to do nothing."""
    reason: Reason
    """The rule that decided."""
    terminate: bool = False
    """Kill the task where it runs, instead of only preventing its start."""
    exhausted: bool = False
    """The run would have been requeued, but its budget of requeues is spent."""
    interrupted: bool = False
    """The run was cut off by its worker's announced shutdown: it counts against a budget of its own."""

    @property
    def code(self) -> str:
        """Return the word for the run's error code: `poison` when the budget is spent, else the reason."""
        return "poison" if self.exhausted else str(self.reason)


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
