"""Dry run, in place of write and deliver: `Verdict`s -> ledger entries that were not applied."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from reaper.adapters import RunAdapter
from reaper.core.facts import Phase
from reaper.core.policy import Action
from reaper.core.reasons import Reason
from reaper.core.serialization import to_compact
from reaper.ledger.manual import parent_kind
from reaper.models import LedgerEntry
from reaper.sweeps.judging import Verdict

PAST_TENSE = {
    Action.REQUEUE: "requeued",
    Action.REPUBLISH: "republished",
    Action.FAIL: "failed",
    Action.CLOSE: "closed",
}
"""What would have been done with a run, after "would have been"."""


class DryRunKey(NamedTuple):
    """What a dry-run entry is unique by; the fields are columns of `LedgerEntry`."""

    kind: str
    run_id: str
    task_id: str
    reason: str


def record_verdicts(adapter: RunAdapter, verdicts: Sequence[Verdict], now: datetime) -> None:
    """Record what would have been done with these runs: once per run, task and reason, however many sweeps find it."""
    record_new_entries(adapter, [entry_of(each, now) for each in verdicts])


def record_parent(adapter: RunAdapter, parent: str, now: datetime) -> None:
    """Record that a parent would have been completed: once."""
    reason = Reason.CHILDREN_ENDED
    entry = LedgerEntry(
        applied=False,
        created_at=now,
        kind=parent_kind(adapter),
        run_id=parent,
        phase=Phase.RUNNING,
        action=LedgerEntry.FINALIZE,
        reason=reason,
        message=f"Would have been completed: {reason.sentence} (rule {reason}).",
    )
    record_new_entries(adapter, [entry])


def entry_of(verdict: Verdict, now: datetime) -> LedgerEntry:
    """Return the entry, not saved, of what would have been done with one run."""
    run = verdict.run
    decision = verdict.decision
    reason = decision.reason
    return LedgerEntry(
        applied=False,
        created_at=now,
        kind=run.kind,
        run_id=run.pk,
        phase=run.phase,
        action=decision.action,
        reason=reason,
        exhausted=decision.exhausted,
        interrupted=decision.interrupted,
        terminate=decision.terminate,
        task_id=run.task_id or "",
        message=f"Would have been {PAST_TENSE[decision.action]}: {reason.sentence} (rule {reason}).",
        facts=to_compact(run),
        evidence=to_compact(verdict.evidence),
    )


def record_new_entries(adapter: RunAdapter, entries: Sequence[LedgerEntry]) -> None:
    """Insert those of the entries that are not there yet."""
    # Looked up, and conflicts ignored as well: not every database has unique constraints on a part of the rows.
    known = LedgerEntry.objects.using(adapter.using).dry_run()
    known = known.filter(kind__in={entry.kind for entry in entries}, run_id__in=[entry.run_id for entry in entries])
    recorded = set(known.values_list(*DryRunKey._fields))
    new = {key: entry for entry in entries if (key := dry_run_key(entry)) not in recorded}
    LedgerEntry.objects.using(adapter.using).bulk_create(new.values(), ignore_conflicts=True, batch_size=500)


def dry_run_key(entry: LedgerEntry) -> DryRunKey:
    """Return what a dry-run entry is unique by."""
    return DryRunKey(entry.kind, entry.run_id, entry.task_id, str(entry.reason))
