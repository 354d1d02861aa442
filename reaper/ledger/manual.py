"""Single entries: what a person did, parents that were completed, and late writes that were rejected."""

from datetime import datetime
from typing import Any

from reaper.adapters import RunAdapter, RunUpdate
from reaper.core.facts import Phase
from reaper.core.reasons import Reason
from reaper.core.serialization import to_compact
from reaper.models import LedgerEntry, RefusedWrite, Sweep

MANUAL_DISPATCH = "manual dispatch"
"""The actor of a dispatch by the host, which does not name a user."""


PARENT_SUFFIX = ".parent"
"""What is appended to a kind for the entries about its runs' parents, which are not runs themselves."""


def parent_kind(adapter: RunAdapter) -> str:
    """Return the `kind` of entries about parents: KIND.parent."""
    return adapter.kind + PARENT_SUFFIX


def record_finalization(adapter: RunAdapter, parent: str, now: datetime, sweep: Sweep, actor: str) -> None:
    """Record that a parent was completed, in the same transaction. `actor`: who asked for it; '' is the reaper."""
    LedgerEntry.objects.using(adapter.using).create(
        sweep=sweep,
        created_at=now,
        kind=parent_kind(adapter),
        run_id=parent,
        phase=Phase.RUNNING,
        action=LedgerEntry.FINALIZE,
        reason=Reason.MANUAL if actor else Reason.CHILDREN_ENDED,
        actor=actor,
    )


def record_manual_action(
    adapter: RunAdapter, update: RunUpdate, action: str, now: datetime, sweep: Sweep, actor: str, task_id: str = ""
) -> None:
    """Record a person's action that the reaper never takes by itself: `LedgerEntry.REOPEN` or `LedgerEntry.REVOKE`.

    `task_id`: the task to revoke, where there is one.
    """
    run = update.run
    LedgerEntry.objects.using(adapter.using).create(
        sweep=sweep,
        created_at=now,
        kind=adapter.kind,
        run_id=run.pk,
        phase=run.phase,
        action=action,
        reason=Reason.MANUAL,
        terminate=update.decision.terminate,
        task_id=task_id,
        message=update.message,
        facts=to_compact(run),
        evidence=to_compact(update.evidence),
        actor=actor,
    )


def record_manual_dispatch(adapter: RunAdapter, pk: Any, task_id: str, now: datetime) -> None:
    """Record a dispatch by a person or another program, in the host's transaction: it resets the run's budgets."""
    LedgerEntry.objects.using(adapter.using).create(
        created_at=now,
        kind=adapter.kind,
        run_id=str(pk),
        phase=Phase.QUEUED,
        action=LedgerEntry.DISPATCH,
        reason=Reason.MANUAL,
        new_task_id=task_id,
        published_at=now,
        actor=MANUAL_DISPATCH,
    )


def record_refused_write(adapter: RunAdapter, pk: Any, now: datetime, **facts: str) -> None:
    """Record a late write that a run's fence refused. `facts`: `task_id`, `worker` and `write` (what it tried)."""
    RefusedWrite.objects.using(adapter.using).create(created_at=now, kind=adapter.kind, run_id=str(pk), **facts)
