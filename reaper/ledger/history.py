"""One run's past in the ledger: its budgets, its entries, and whether its end can be undone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from reaper.adapters import RunAdapter
from reaper.core.facts import History, Phase, RunFacts
from reaper.core.policy import Action
from reaper.db.expressions import InValues
from reaper.models import LedgerEntry, LedgerQuerySet

HISTORY_COLUMNS = (
    *("run_id", "created_at", "action", "phase"),
    *("interrupted", "actor", "new_task_id", "published_at"),
)
"""What `apply_row` reads of an entry."""


def with_history(adapter: RunAdapter, runs: Sequence[RunFacts]) -> list[RunFacts]:
    """Return the runs, in their order, with what was done to each before: one query."""
    entries = LedgerEntry.objects.using(adapter.using).applied().filter(kind=adapter.kind)
    rows = entries.filter(InValues("run_id", [run.pk for run in runs])).order_by("id").values(*HISTORY_COLUMNS)
    past: dict[str, History] = {}
    for row in rows:
        past[row["run_id"]] = apply_row(past.get(row["run_id"], History()), row)
    return [replace(run, history=past[run.pk]) if run.pk in past else run for run in runs]


def apply_row(history: History, row: dict[str, Any]) -> History:
    """Return the history with one more entry, given by `HISTORY_COLUMNS`. What a person did resets the budgets."""
    unpublished = row["new_task_id"] if row["published_at"] is None else ""
    unpublished_at = row["created_at"] if unpublished else None
    # guard: only a manual action resets the budgets
    if row["actor"]:
        return History(unpublished_task_id=unpublished, unpublished_at=unpublished_at)
    if row["action"] != Action.REQUEUE:
        return history
    had_started = row["phase"] == Phase.RUNNING
    was_interrupted = row["interrupted"]
    return History(
        requeues=history.requeues + (had_started and not was_interrupted),
        redispatches=history.redispatches + (not had_started),
        interruptions=history.interruptions + (had_started and was_interrupted),
        last_action_at=row["created_at"],
        unpublished_task_id=unpublished,
        unpublished_at=unpublished_at,
    )


def entries_of_run(adapter: RunAdapter, pk: str) -> LedgerQuerySet:
    """Return a run's entries, newest first, those of dry runs included."""
    return LedgerEntry.objects.using(adapter.using).filter(kind=adapter.kind, run_id=pk).order_by("-id")


def find_undoable_end(adapter: RunAdapter, pk: str) -> LedgerEntry | None:
    """Return the entry by which a run was ended, where nothing was done to it since; None otherwise."""
    entry = entries_of_run(adapter, pk).applied().first()
    # guard: reopen: no later action
    return entry if entry and entry.action in (Action.FAIL, Action.CLOSE) else None
