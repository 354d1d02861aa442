"""Facts, evidence and decisions in words for people. Pure."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from reaper.core.decisions import Decision, decide
from reaper.core.facts import NO_EVIDENCE, Evidence, Liveness, MessageLocation, Phase, RunFacts, hostname
from reaper.core.formatting import format_ago, format_duration
from reaper.core.policy import Action, Policy
from reaper.core.reasons import Reason

ACTION_DONE = {
    Action.LEAVE: "left alone",
    Action.REQUEUE: "requeued",
    Action.REPUBLISH: "sent again",
    Action.FAIL: "failed",
    Action.CLOSE: "closed",
}
"""What was done with a run, after "it was": each action's past participle."""
LIMITS = {
    Phase.RUNNING: ("run_timeout", "stall_timeout", "orphan_grace", "alert_after"),
    Phase.QUEUED: ("queue_timeout", "lost_grace"),
}
"""The policy fields that limit a phase."""


def describe_action(run: RunFacts, decision: Decision, now: datetime, *, actor: str = "") -> str:
    """Return the message that is written into the run: what was done, by whom, why, and how long it had been stuck."""
    done = ACTION_DONE[decision.action].capitalize()
    cause = f"by {actor}" if actor else f"by the reaper: {decision.reason.sentence}"
    age = run.age(now)
    stuck = f" It had been {run.status or run.phase} for {format_duration(age)}." if age is not None else ""
    exhausted = describe_exhausted(run.history.total_requeues) if decision.exhausted else ""
    return f"{done} {cause} (rule {decision.reason}).{stuck}{exhausted}"


def describe_exhausted(requeues: int) -> str:
    """Return why the run was not requeued once more, as a sentence to append."""
    if not requeues:
        return " Requeueing is disabled for its kind."
    return f" Given up after {requeues} {'requeue' if requeues == 1 else 'requeues'}."


def describe_decision(run: RunFacts, decision: Decision, policy: Policy, now: datetime) -> str:
    """Return what the next sweep would do with a run, why, and what comes later if nothing changes."""
    why = f"{decision.reason.sentence} (rule {decision.reason})"
    if decision.action is Action.LEAVE:
        return f"No action: {why}.{describe_timeout(run, policy, now)}"
    kill = " and its task killed" if decision.terminate and run.task_id else ""
    exhausted = describe_exhausted(run.history.total_requeues) if decision.exhausted else ""
    return f"It would be {ACTION_DONE[decision.action]}{kill}: {why}.{exhausted}"


def describe_timeout(run: RunFacts, policy: Policy, now: datetime) -> str:
    """Return what happens to a running run at its run timeout, and when, as a sentence to append; '' if nothing."""
    age = run.age(now)
    if run.phase is not Phase.RUNNING or age is None or age > policy.run_timeout:
        return ""
    remaining = policy.run_timeout - age
    later = decide(run, NO_EVIDENCE, policy, now + remaining + timedelta.resolution)
    if later.reason is not Reason.TIMED_OUT:
        return ""
    return f" It would be {ACTION_DONE[later.action]} at run_timeout, in {format_duration(remaining)}."


def describe_limits(run: RunFacts, policy: Policy) -> str:
    """Return the limits of a run's phase, by their names in the policy; '' where there are none."""
    values: dict[str, timedelta | None] = {name: getattr(policy, name) for name in LIMITS.get(run.phase, ())}
    limits = [f"{name} {format_duration(value)}" for name, value in values.items() if value is not None]
    return f"Limits: {', '.join(limits)}" if limits else ""


def describe_facts(run: RunFacts, now: datetime) -> str:
    """Return the facts of a run's row, in a sentence or two."""
    if run.phase is Phase.FINISHED:
        parts = [f"It has ended with status {run.status}"]
    else:
        age = run.age(now)
        unknown = f"It is {run.status}, since when is not known"
        parts = [unknown if age is None else f"It has been {run.status} for {format_duration(age)}"]
    if run.phase is Phase.RUNNING:
        parts.append(f"started by {run.worker}" if run.worker else "no worker recorded")
        parts.append(f"last progress {format_ago(run.progress_at, now)}" if run.progress_at else "no progress recorded")
    parts.append(f"task id {run.task_id}" if run.task_id else "no task was ever sent for it")
    ended = ", which has ended" if run.parent_ended else ""
    parent = f" Its parent is {run.parent}{ended}." if run.parent else ""
    return f"{', '.join(parts)}.{parent}"


def describe_evidence(run: RunFacts, evidence: Evidence, now: datetime) -> str:
    """Return what is known of the task behind a run, in one line: who started it, who has it, where its message is."""
    parts = [*describe_claimant(run, evidence, now), *describe_holder(run, evidence, now)]
    if run.task_id and not evidence.holder:
        parts += describe_retry(evidence) if run.phase is Phase.RUNNING else describe_message(evidence, now)
    return "; ".join([*parts, *evidence.uncertainties])


def describe_claimant(run: RunFacts, evidence: Evidence, now: datetime) -> Iterator[str]:
    """Yield what became of the worker that the row names."""
    if run.phase is not Phase.RUNNING:
        return
    if not run.worker:
        yield "no worker recorded on the run"
        return
    state = {
        Liveness.ALIVE: ", which is alive",
        Liveness.DEAD: f", which {describe_death(evidence)}",
        Liveness.UNKNOWN: "",
    }[evidence.claimant_liveness]
    seen_at = evidence.claimant_seen_at
    heartbeat = f"last heartbeat {format_ago(seen_at, now)}" if seen_at else "no heartbeat from it is recorded"
    yield f"started by {hostname(run.worker)}{state}, {heartbeat}"


def describe_holder(run: RunFacts, evidence: Evidence, now: datetime) -> Iterator[str]:
    """Yield which worker has the task."""
    holder = hostname(evidence.holder)
    if not run.task_id:
        yield "no task was ever sent for it"
    elif evidence.holder and evidence.active_since:
        yield f"{holder} has been running the task for {format_duration(now - evidence.active_since)}"
    elif evidence.holder:
        yield f"{holder} has reserved the task"
    elif not evidence.absent:
        yield "can't tell whether a live worker still has the task"
    elif not evidence.witness:
        yield "no live worker reports the task, but none has reported long enough to confirm that"
    else:
        yield "no live worker has the task"
        if not run.worker and run.phase is Phase.RUNNING and evidence.fleet_watched_since:
            yield f"all live workers have been reporting for {format_duration(now - evidence.fleet_watched_since)}"
    if evidence.last_holder and not evidence.holder and evidence.last_holder != run.worker:
        yield f"{hostname(evidence.last_holder)}, which {describe_death(evidence)}, had the task at its last heartbeat"


def describe_death(evidence: Evidence) -> str:
    """Return that the worker is dead, and whether it had announced that: the rest of a clause after "which"."""
    return "announced its shutdown and is gone" if evidence.shutdown_announced else "is dead"


def describe_retry(evidence: Evidence) -> Iterator[str]:
    """Yield that a running run's Celery retry is waiting, if it is."""
    if evidence.retry_waiting:
        yield f"its Celery retry is waiting in {queue_name(evidence)}"


def describe_message(evidence: Evidence, now: datetime) -> Iterator[str]:
    """Yield where a queued run's message is, and what else is known of its queue."""
    queue = queue_name(evidence)
    if evidence.waiting is not None:
        queue = f"{queue} ({evidence.waiting} waiting)"
    yield {
        MessageLocation.WAITING: f"its message is waiting in {queue}",
        MessageLocation.DELIVERED: f"its message was delivered from {queue} and is not acknowledged",
        MessageLocation.ABSENT: f"its message is not in {queue}",
        MessageLocation.UNKNOWN: f"can't tell whether its message is in {queue}",
    }[evidence.message_location]
    if evidence.first_sighting_at:
        reported = "every live worker has" if evidence.all_reported_since else "not every live worker has"
        yield f"the same was found {format_ago(evidence.first_sighting_at, now)}, and {reported} reported since"
    if evidence.overtaken:
        yield "runs dispatched much later have already started"


def queue_name(evidence: Evidence) -> str:
    """Return the queue's name, as part of a sentence."""
    return f"queue {evidence.queue}" if evidence.queue else "its queue"
