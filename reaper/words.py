"""Decisions and evidence in words for a person. Pure."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from reaper.decisions import Action, Decision
from reaper.facts import Evidence, History, Phase, Presence, RunFacts, Vital


def describe(run: RunFacts, decision: Decision, now: datetime, *, by: str = "") -> str:
    """Return the sentence that is written into the run: what happened, how long it was stuck, by which rule."""
    verb = {Action.REQUEUE: "Requeued", Action.CLOSE: "Closed"}.get(decision.action, "Failed")
    age = run.age(now)
    stuck = f" It had been {run.status} for {duration(age)}." if age is not None else ""
    spent = ""
    if decision.exhausted:
        spent = f" Given up after {sum_of(run.history)} requeues."
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


def sum_of(history: History) -> int:
    """Return how often a run was requeued, for whatever reason."""
    return history.requeues + history.redispatches + history.interruptions


def evidence_in_words(run: RunFacts, evidence: Evidence, now: datetime) -> str:
    """Return what is known of the task behind a run, in one line: who claimed it, who has it, where its message is."""
    said = [*of_claimant(run, evidence, now), of_task(run, evidence, now)]
    if run.phase is Phase.QUEUED and not evidence.holder and run.task_id:
        said += of_message(evidence, now)
    return "; ".join([*said, *evidence.doubts])


def of_claimant(run: RunFacts, evidence: Evidence, now: datetime) -> Iterator[str]:
    """Yield what became of the worker that the row names."""
    if run.phase is not Phase.RUNNING:
        return
    if not run.worker:
        yield "its row names no worker"
        return
    heard = evidence.claimant_seen_at
    state = {Vital.ALIVE: "alive", Vital.DEAD: "dead", Vital.UNKNOWN: "not known"}[evidence.claimant]
    when = f"last heard of {ago(now, heard)}" if heard else "which never reported"
    end = ", which had announced its end" if evidence.announced else ""
    yield f"claimed by {run.worker} ({state}, {when}{end})"


def of_task(run: RunFacts, evidence: Evidence, now: datetime) -> str:
    """Return who has the task."""
    if not run.task_id:
        return "it has no task"
    if evidence.active_since:
        return f"{evidence.holder} is executing the task since {duration(now - evidence.active_since)}"
    if evidence.holder:
        return f"{evidence.holder} has the task"
    if not evidence.absent:
        return "whether a worker has the task is not known"
    named = f"; the last report of {evidence.last_holder}, which is dead, names it" if evidence.last_holder else ""
    seen = f" (as {evidence.witness} can tell)" if evidence.witness else ", but no worker was there all along to tell"
    return f"no live worker has the task{seen}{named}"


def of_message(evidence: Evidence, now: datetime) -> Iterator[str]:
    """Yield where a queued run's message is."""
    depth = "" if evidence.waiting is None else f" ({evidence.waiting} waiting)"
    queue = f"queue {evidence.queue or '?'}{depth}"
    yield {
        Presence.WAITING: f"its message waits in {queue}",
        Presence.DELIVERED: f"its message was delivered and is not acknowledged; {queue}",
        Presence.ABSENT: f"its message is not in {queue}",
        Presence.UNKNOWN: f"whether its message is in {queue} is not known",
    }[evidence.presence]
    if evidence.first_look:
        yield f"that was so {ago(now, evidence.first_look)} already"


def ago(now: datetime, then: datetime) -> str:
    """Return how long ago something was."""
    return f"{duration(now - then)} ago"
