"""Decisions and evidence in words for a person. Pure."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from reaper.core.decisions import Decision
from reaper.core.facts import Evidence, History, Liveness, MessageLocation, Phase, RunFacts, hostname
from reaper.core.formatting import format_ago, format_duration
from reaper.core.policy import Action, Policy

VERBS = {
    Action.LEAVE: "Left alone",
    Action.REQUEUE: "Requeued",
    Action.REPUBLISH: "Sent again",
    Action.FAIL: "Failed",
    Action.CLOSE: "Closed",
}
PAST = {
    Action.FAIL: "failed",
    Action.REQUEUE: "requeued",
    Action.REPUBLISH: "published again under the same task id",
    Action.CLOSE: "closed",
}


def describe(run: RunFacts, decision: Decision, now: datetime, *, actor: str = "") -> str:
    """Return the sentence that is written into the run: what happened, how long it was stuck, by which rule."""
    age = run.age(now)
    stuck = f" It had been {run.status or run.phase} for {format_duration(age)}." if age is not None else ""
    who = f"by {actor}" if actor else f"by the reaper: {decision.reason.sentence}"
    spent = given_up(total_requeues(run.history)) if decision.exhausted else ""
    return f"{VERBS[decision.action]} {who} (rule {decision.reason}).{stuck}{spent}"


def given_up(requeues: int) -> str:
    """Return that no further requeue is allowed, and after how many."""
    if not requeues:
        return " Its kind allows no requeue."
    return f" Given up after {requeues} {'requeue' if requeues == 1 else 'requeues'}."


def total_requeues(history: History) -> int:
    """Return how often a run was requeued, for whatever reason."""
    return history.requeues + history.redispatches + history.interruptions


def evidence_in_words(run: RunFacts, evidence: Evidence, now: datetime) -> str:
    """Return what is known of the task behind a run, in one line: who claimed it, who has it, where its message is."""
    said = [*describe_claimant(run, evidence, now), *describe_task(run, evidence, now)]
    if run.task_id and not evidence.holder:
        said += describe_retry(evidence) if run.phase is Phase.RUNNING else describe_message(evidence, now)
    return "; ".join([*said, *evidence.uncertainties])


def describe_claimant(run: RunFacts, evidence: Evidence, now: datetime) -> Iterator[str]:
    """Yield what became of the worker that the row names."""
    if run.phase is not Phase.RUNNING:
        return
    if not run.worker:
        yield "its row names no worker"
        return
    state = {
        Liveness.ALIVE: "is alive",
        Liveness.DEAD: describe_death(evidence),
        Liveness.UNKNOWN: "left no report",
    }[evidence.claimant_liveness]
    heard = f", last heard of {format_ago(evidence.claimant_seen_at, now)}" if evidence.claimant_seen_at else ""
    yield f"claimed by {hostname(run.worker)}, which {state}{heard}"


def describe_task(run: RunFacts, evidence: Evidence, now: datetime) -> Iterator[str]:
    """Yield who has the task."""
    holder = hostname(evidence.holder)
    if not run.task_id:
        yield "it has no task"
    elif evidence.holder and evidence.active_since:
        yield f"{holder} has been working on the task for {format_duration(now - evidence.active_since)}"
    elif evidence.holder:
        yield f"{holder} holds the task and is not working on it yet"
    elif not evidence.absent:
        yield "whether a live worker holds the task is not known"
    elif not evidence.witness:
        yield "no live worker says that it holds the task, but none has been reporting for long enough to be sure"
    else:
        yield "no live worker holds the task"
        if not run.worker and run.phase is Phase.RUNNING and evidence.fleet_watched_since:
            yield f"all live workers have been reporting for {format_duration(now - evidence.fleet_watched_since)}"
    if evidence.last_holder and not evidence.holder and evidence.last_holder != run.worker:
        yield f"{hostname(evidence.last_holder)}, which {describe_death(evidence)}, had the task when it last reported"


def describe_death(evidence: Evidence) -> str:
    """Return that the worker is dead, and whether it was meant to end."""
    return "had announced its end and is dead" if evidence.shutdown_announced else "is dead"


def describe_retry(evidence: Evidence) -> Iterator[str]:
    """Yield that a running run's next attempt waits."""
    if evidence.retry_waiting:
        yield f"its own retry is waiting in {queue_name(evidence)}"


def describe_message(evidence: Evidence, now: datetime) -> Iterator[str]:
    """Yield where a queued run's message is, and what else tells of the queue."""
    queue, depth = queue_name(evidence), "" if evidence.waiting is None else f" ({evidence.waiting} waiting)"
    yield {
        MessageLocation.WAITING: f"its message is waiting in {queue}{depth}",
        MessageLocation.DELIVERED: f"its message was taken from {queue}{depth} and is not acknowledged",
        MessageLocation.ABSENT: f"its message is not in {queue}{depth}",
        MessageLocation.UNKNOWN: f"whether its message is in {queue}{depth} is not known",
    }[evidence.message_location]
    if evidence.first_sighting_at:
        heard = "every live worker has" if evidence.all_reported_since else "not every live worker has"
        yield f"the same was seen {format_ago(evidence.first_sighting_at, now)}, and {heard} reported since"
    if evidence.overtaken:
        yield "runs that were sent much later have started"


def queue_name(evidence: Evidence) -> str:
    """Return the queue's name, as part of a sentence."""
    return f"queue {evidence.queue}" if evidence.queue else "its queue"


def facts_in_words(run: RunFacts, now: datetime) -> list[str]:
    """Return what a run's row says, in sentences."""
    task = f"its task is {run.task_id}" if run.task_id else "no task was ever sent for it"
    parent = f" Its parent is {run.parent}{', which has ended' * run.parent_ended}." if run.parent else ""
    if run.phase is Phase.FINISHED:
        return [f"It has ended: its status is {run.status}; {task}.{parent}"]
    age = run.age(now)
    since = (
        f"has been {run.status} for {format_duration(age)}"
        if age is not None
        else f"is {run.status}, nothing tells for how long"
    )
    said = [f"It {since}", task]
    if run.phase is Phase.RUNNING:
        said.insert(1, f"claimed by {run.worker}" if run.worker else "by no worker that is recorded")
        said.insert(2, f"last progress {format_ago(run.progress_at, now) if run.progress_at else 'none'}")
    return [f"{', '.join(said)}.{parent}"]


def verdict_in_words(run: RunFacts, decision: Decision) -> str:
    """Return what would be done with a run, and why."""
    why = f"{decision.reason.sentence} (rule {decision.reason})"
    if decision.action is Action.LEAVE:
        return f"It is left alone: {why}."
    killed = " and its task killed" if decision.terminate and run.task_id else ""
    spent = " It was requeued as often as it may be." if decision.exhausted else ""
    return f"It would be {PAST[decision.action]}{killed}: {why}.{spent}"


def limits_in_words(run: RunFacts, policy: Policy) -> str:
    """Return the limits of a run's phase, by their names in the settings."""
    names = {
        Phase.RUNNING: ("run_timeout", "stall_timeout", "orphan_grace", "alert_after"),
        Phase.QUEUED: ("queue_timeout", "lost_grace"),
    }.get(run.phase, ())
    values: dict[str, timedelta] = {name: getattr(policy, name) for name in names if getattr(policy, name) is not None}
    return (
        "Limits: " + ", ".join(f"{name} {format_duration(value)}" for name, value in values.items()) if values else ""
    )
