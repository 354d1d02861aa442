"""What happened to a run before: from its row, the ledger and the rejected writes, in sentences."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from django.db.models import F

from reaper.adapters import RunAdapter
from reaper.core.facts import RunFacts
from reaper.ledger.history import entries_of_run
from reaper.models import LedgerEntry, RefusedWrite

# The most events of a run's history that are shown, newest first.
MAX_EVENTS = 100
# The action of a rejected write among the events, which the ledger does not have.
REJECTED = "rejected"


class TimelineEvent(NamedTuple):
    """One event in the life of a run."""

    at: datetime
    text: str
    """One sentence."""


def history_of(adapter: RunAdapter, pk: str) -> list[dict[str, Any]]:
    """Return what was done to a run and which late writes were rejected, newest first, as the JSON has them."""
    names = ("created_at", "action", "applied", "reason", "actor", "message", "task_id", "new_task_id", "published_at")
    rows = entries_of_run(adapter, pk)
    events: list[dict[str, Any]] = list(rows.values(*names, revoked_at=F("sweep__revoked_at"))[:MAX_EVENTS])
    rejected = RefusedWrite.objects.using(adapter.using).filter(kind=adapter.kind, run_id=pk).order_by("-id")
    for row in rejected.values("created_at", "write", "task_id", "worker")[:MAX_EVENTS]:
        events.append({"action": REJECTED, **row})
    return sorted(events, key=lambda event: event["created_at"], reverse=True)[:MAX_EVENTS]


def state_token(run: RunFacts) -> str:
    """Return a short token of the state in which a person saw a run: another status, task or start changes it.

    Progress does not change it: otherwise nobody could end a run that keeps making progress.
    """
    facts = (run.status, run.task_id, run.started_at and run.started_at.isoformat())
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def timeline_of(adapter: RunAdapter, run: RunFacts) -> list[TimelineEvent]:
    """Return what happened to a run, newest first."""
    task = f" as task {run.task_id}" if run.task_id else ""
    from_row = [
        # The latest first: sorting keeps this order among events of the same moment.
        (run.progress_at, "Made its last progress."),
        (run.started_at, f"Claimed by {run.worker or 'a worker'}."),
        (run.queued_at, f"Dispatched{task}."),
        (run.created_at, "Created."),
    ]
    events = [TimelineEvent(at, text) for at, text in from_row if at]
    events += [TimelineEvent(each["created_at"], describe_event(each)) for each in history_of(adapter, run.pk)]
    return sorted(events, key=lambda event: event.at, reverse=True)


def describe_event(event: Mapping[str, Any]) -> str:
    """Return one event of `history_of` as a sentence."""
    if event["action"] == REJECTED:
        worker = f" on {event['worker']}" if event["worker"] else ""
        return f"Rejected a late {event['write']} of task {event['task_id'] or '(none)'}{worker}."
    if event["action"] == LedgerEntry.DISPATCH:
        return f"Dispatched manually.{describe_tasks(event)}"
    text = event["message"] or f"{event['action'].capitalize()} by {event['actor'] or 'the reaper'}."
    return f"{text}{describe_tasks(event)}"


def describe_tasks(event: Mapping[str, Any]) -> str:
    """Return which task replaced which, and what the broker has not taken yet: " [old task …, new task …]" or ''."""
    tasks = []
    if event["task_id"] and event["applied"]:
        owed = " (its revoke is not sent yet)" if event["revoked_at"] is None else ""
        tasks.append(f"old task {event['task_id']}{owed}")
    if event["new_task_id"]:
        unsent = " (not published yet)" if event["published_at"] is None else ""
        tasks.append(f"new task {event['new_task_id']}{unsent}")
    return f" [{', '.join(tasks)}]" if tasks else ""
