"""Every rule of the reaper: what to do with a run, and why. Pure: no I/O.

    decide(run, evidence, policy, now) -> Decision

Rules are tried in order, and the first one that matches decides:

    phase    condition                                                  action               reason
    any      has ended                                                  leave                finished
    any      has a status that the adapter does not map                 leave                unknown_status
    any      is exempt from recovery                                    leave                exempt
    any      its parent has ended                                       close, revoke        parent_ended
    queued   the reaper dispatched it within 10 s, and the broker has   leave                backoff
             not confirmed the message yet
    queued   the reaper dispatched it longer ago, and the broker has    republish            unpublished
             not confirmed the message
    any      is within the backoff after the last action on it          leave                backoff
    any      has no usable timestamp (none, or all far in the future)   leave                no_timestamp
    running  is older than run_timeout                                  on_timeout           timed_out
    running  a live worker has its task, but it made no progress for    on_timeout           stalled
             stall_timeout
    running  a live worker has its task                                 leave                in_progress
    running  its own Celery retry is waiting in the queue               leave                retry_scheduled
    running  started or made progress within orphan_grace               leave                within_grace
    running  its worker is dead, or alive and no longer has its task    on_orphan            orphaned
    running  none of these: not enough evidence                         leave                inconclusive
    queued   a worker has been executing it longer than run_timeout     on_timeout           timed_out
    queued   a live worker has its task (reserved, rate-limited, ETA)   leave                reserved
    queued   its message is waiting in the broker                       leave                backlog
    queued   is younger than lost_grace                                 leave                within_grace
    queued   no task was ever sent for it                               requeue              never_sent
    queued   no worker has its task and its message does not exist,     requeue              lost
             confirmed twice
    queued   its message was delivered to a worker that died, or that   requeue              stranded
             no longer has it (confirmed twice)
    queued   the broker cannot be inspected, it is older than           requeue              overtaken
             queue_timeout, and a run dispatched that much later has
             started
    queued   none of these: not enough evidence                         leave                inconclusive

The reaper acts early only on positive evidence; otherwise it waits for the timeout, and where it cannot tell, it does
nothing. So orphaned, lost and stranded need two more things. First, the task is certainly absent from every live
worker: all their heartbeats are complete, and no answer to an inspect contradicts them. Second, there is a witness: a
worker that consumes the run's queue has reported without a gap for a whole silence limit, and recently. Without a
witness, the database or the network may be what failed.

A task is killed only where a worker reports it as executing. A run exactly at a limit is not yet over it. A requeue
over its budget becomes a fail: a run that was started and lost repeatedly is poison, and one that never starts has no
worker to run it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from reaper.core.facts import MAX_CLOCK_AHEAD, Evidence, History, Liveness, MessageLocation, Phase, RunFacts, hostname
from reaper.core.policy import Action, Policy
from reaper.core.reasons import Reason

PUBLISH_GRACE = timedelta(seconds=10)
"""How long a sweep may take to publish a dispatch after its commit; within it another sweep would send a second copy.

Its calls to the broker are bounded by `TRANSPORT_TIMEOUTS` in `reaper/broker/connection.py`.
"""


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
    """The run would have been requeued, but its requeue budget is used up."""
    interrupted: bool = False
    """The run was cut off by its worker's announced shutdown: it counts against a budget of its own."""

    @property
    def code(self) -> str:
        """Return the run's error code: "poison" when its budget is used up, else the reason."""
        return "poison" if self.exhausted else str(self.reason)


def leave(reason: Reason) -> Decision:
    """Return the decision to do nothing."""
    return Decision(Action.LEAVE, reason)


def decide(run: RunFacts, evidence: Evidence, policy: Policy, now: datetime) -> Decision:
    """Return what to do with the run. Every run gets a decision, whatever its row holds."""
    # guard: run is finished
    if run.phase is Phase.FINISHED:
        return leave(Reason.FINISHED)
    # guard: run has an unknown status
    if run.phase not in (Phase.QUEUED, Phase.RUNNING):
        return leave(Reason.UNKNOWN_STATUS)
    # guard: run is exempt
    if run.exempt:
        return leave(Reason.EXEMPT)
    # guard: parent has ended
    if run.parent_ended:
        return Decision(Action.CLOSE, Reason.PARENT_ENDED)
    # guard: run was not published
    if run.phase is Phase.QUEUED and run.task_id and run.history.unpublished_task_id == run.task_id:
        # guard: run is about to be published
        if about_to_be_published(run.history, now):
            return leave(Reason.BACKOFF)
        return Decision(Action.REPUBLISH, Reason.UNPUBLISHED)
    # guard: backoff
    if in_backoff(run.history, policy, now):
        return leave(Reason.BACKOFF)
    age = run.age(now)
    # guard: run has no start time
    if age is None:
        return leave(Reason.NO_TIMESTAMP)
    rules = decide_running if run.phase is Phase.RUNNING else decide_queued
    return rules(run, evidence, policy, now, age)


def decide_running(run: RunFacts, evidence: Evidence, policy: Policy, now: datetime, age: timedelta) -> Decision:
    """Return what to do with a run that has started; `age` is the time in its phase."""
    idle = run.idle_for(now)
    idle = age if idle is None else idle
    executing = evidence.active_since is not None
    if age > policy.run_timeout:
        return fail_or_requeue(run, policy.on_timeout, policy, Reason.TIMED_OUT, terminate=executing)
    if evidence.holder:
        if policy.stall_timeout is not None and idle > policy.stall_timeout:
            return fail_or_requeue(run, policy.on_timeout, policy, Reason.STALLED, terminate=executing)
        # guard: a worker holds the task
        return leave(Reason.IN_PROGRESS)
    if evidence.retry_waiting:
        return leave(Reason.RETRY_SCHEDULED)
    # guard: grace period of an orphaned run
    if idle <= policy.orphan_grace:
        return leave(Reason.WITHIN_GRACE)
    # guard: the worker released the task
    if evidence.is_surely_absent and claimant_released(run, evidence):
        return fail_or_requeue(run, policy.on_orphan, policy, Reason.ORPHANED, interrupted=evidence.shutdown_announced)
    # guard: running without evidence
    return leave(Reason.INCONCLUSIVE)


def claimant_released(run: RunFacts, evidence: Evidence) -> bool:
    """Return whether the worker that started the run cannot be working on it any more."""
    if evidence.claimant_liveness is Liveness.DEAD:
        return True
    if evidence.claimant_liveness is Liveness.ALIVE:
        # Its list of tasks, made after the run's last activity and by the same clock, lacks this one.
        listed_at = evidence.claimant_listed_at
        active_at = run.last_activity_at
        return listed_at is not None and active_at is not None and listed_at > active_at
    # That a dead worker had a copy of the message proves nothing about another worker that the row names.
    if evidence.last_holder and run.worker in ("", hostname(evidence.last_holder)):
        return True
    if run.worker:
        return False
    # Which worker started it is not known, but all live ones have reported since before then, and none has it.
    watched_since = evidence.fleet_watched_since
    return watched_since is not None and run.started_at is not None and watched_since < run.started_at


def decide_queued(run: RunFacts, evidence: Evidence, policy: Policy, now: datetime, age: timedelta) -> Decision:
    """Return what to do with a run that waits for a worker; `age` is the time in its phase."""
    if evidence.active_since is not None and now - evidence.active_since > policy.run_timeout:
        return fail_or_requeue(run, policy.on_timeout, policy, Reason.TIMED_OUT, terminate=True)
    if evidence.holder:
        return leave(Reason.RESERVED)
    if evidence.message_location is MessageLocation.WAITING:
        return leave(Reason.BACKLOG)
    # guard: grace period of a lost run
    if age <= policy.lost_grace:
        return leave(Reason.WITHIN_GRACE)
    if not run.task_id:
        return requeue(run, policy, Reason.NEVER_SENT)
    # guard: confirmed by a second observation
    if evidence.is_surely_absent and evidence.message_location is MessageLocation.ABSENT and evidence.is_confirmed:
        return requeue(run, policy, Reason.LOST)
    if (
        evidence.is_surely_absent
        and evidence.message_location is MessageLocation.DELIVERED
        and (evidence.last_holder or evidence.is_confirmed)
    ):
        return requeue(run, policy, Reason.STRANDED)
    if evidence.message_location is MessageLocation.UNKNOWN and age > policy.queue_timeout and evidence.overtaken:
        return requeue(run, policy, Reason.OVERTAKEN)
    # guard: pending without evidence
    return leave(Reason.INCONCLUSIVE)


def alert_for(run: RunFacts, policy: Policy, now: datetime) -> str:
    """Return the alert that a run is due for, "long_running" or "backlog"; '' for none."""
    age = run.age(now)
    if age is not None and run.phase is Phase.RUNNING and age > policy.alert_after:
        return "long_running"
    if age is not None and run.phase is Phase.QUEUED and age > policy.queue_timeout:
        return "backlog"
    return ""


def fail_or_requeue(
    run: RunFacts, action: Action, policy: Policy, reason: Reason, *, terminate: bool = False, interrupted: bool = False
) -> Decision:
    """Return the decision for the action that the policy names: fail, or requeue where the work may be done twice."""
    if action is Action.REQUEUE:
        return requeue(run, policy, reason, terminate=terminate, interrupted=interrupted)
    return Decision(Action.FAIL, reason, terminate=terminate)


def requeue(
    run: RunFacts, policy: Policy, reason: Reason, *, terminate: bool = False, interrupted: bool = False
) -> Decision:
    """Return a requeue, or the fail that replaces it when the run's budget is used up."""
    history = run.history
    if run.phase is not Phase.RUNNING:
        # guard: budget of redispatches
        exhausted = history.redispatches >= policy.max_redispatches
    elif interrupted:
        # guard: budget of interruptions
        exhausted = history.interruptions >= policy.max_interruptions
    else:
        # guard: budget of requeues
        exhausted = history.requeues >= policy.max_requeues
    return Decision(
        Action.FAIL if exhausted else Action.REQUEUE,
        reason,
        terminate=terminate,
        exhausted=exhausted,
        interrupted=interrupted,
    )


def in_backoff(history: History, policy: Policy, now: datetime) -> bool:
    """Return whether the run is still within the backoff after the last action on it."""
    count = history.total_requeues
    if not count or not policy.backoff or history.last_action_at is None:
        return False
    wait = policy.backoff[min(count, len(policy.backoff)) - 1]
    # An action in the future means that a clock was set back: it must not stop recovery forever.
    return timedelta(0) <= now - history.last_action_at <= wait


def about_to_be_published(history: History, now: datetime) -> bool:
    """Return whether the sweep that made the last dispatch may still be publishing it."""
    dispatched_at = history.unpublished_at
    if dispatched_at is None:
        return False
    # One in the near future was made by a concurrent sweep.
    return dispatched_at <= now + MAX_CLOCK_AHEAD and now - dispatched_at <= PUBLISH_GRACE
