"""The ledger: what was done to a run before, and what of it the broker has not taken yet."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from types import NoneType, UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from django.db.models import F, QuerySet

from reaper.adapters import Change, RunAdapter
from reaper.decisions import Action, Reason
from reaper.facts import Evidence, History, Phase, RunFacts
from reaper.models import Reaping, RefusedWrite, Sweep

# A task that was to be revoked this long ago has started, ended or been refused by its fence since.
REVOKE_WITHIN = timedelta(hours=1)
Data = TypeVar("Data", RunFacts, Evidence, History)


def with_history(adapter: RunAdapter, runs: Sequence[RunFacts]) -> list[RunFacts]:
    """Return the runs with what the ledger says of each: one query."""
    rows: QuerySet = Reaping.objects.using(adapter.using).filter(kind=adapter.kind, run_id__in=[run.pk for run in runs])
    fields = ("run_id", "at", "action", "phase", "interrupted", "actor", "new_task_id", "published_at")
    past: dict[str, History] = {}
    for row in rows.order_by("id").values(*fields):
        past[row["run_id"]] = fold(past.get(row["run_id"], History()), row)
    return [replace(run, history=past[run.pk]) if run.pk in past else run for run in runs]


def fold(history: History, row: dict[str, Any]) -> History:
    """Return the history with one more ledger row. What a person did starts the budgets anew."""
    unpublished = row["new_task_id"] if row["published_at"] is None else ""
    made = row["at"] if unpublished else None
    if row["actor"]:
        return History(unpublished=unpublished, unpublished_at=made)
    if row["action"] != Action.REQUEUE:
        return history
    started, interrupted = row["phase"] == Phase.RUNNING, row["interrupted"]
    return History(
        requeues=history.requeues + (started and not interrupted),
        redispatches=history.redispatches + (not started),
        interruptions=history.interruptions + (started and interrupted),
        last_action_at=row["at"],
        unpublished=unpublished,
        unpublished_at=made,
    )


def record(
    adapter: RunAdapter, changes: Iterable[Change], now: datetime, sweep: Sweep | None, actor: str
) -> list[Reaping]:
    """Write one row per change, in the caller's transaction, and return them."""
    rows = [
        Reaping(
            sweep=sweep,
            at=now,
            kind=adapter.kind,
            run_id=change.run.pk,
            phase=change.run.phase,
            action=change.decision.action,
            reason=change.decision.reason,
            exhausted=change.decision.exhausted,
            interrupted=change.decision.interrupted,
            terminate=change.decision.terminate,
            task_id=change.run.task_id or "",
            new_task_id=change.new_task_id,
            message=change.message,
            facts=as_json(change.run),
            evidence=as_json(change.evidence),
            actor=actor,
        )
        for change in changes
    ]
    return Reaping.objects.using(adapter.using).bulk_create(rows)


def keep(adapter: RunAdapter, rows: Sequence[Reaping], won: Iterable[Change]) -> list[Reaping]:
    """Return the rows of the changes that were written; the others', which were not, are deleted."""
    written = {change.run.pk for change in won}
    # By their sweep, which acts on a run once: not every database tells the keys of rows that it was given at once.
    if lost := [row.run_id for row in rows if row.run_id not in written]:
        mine = Reaping.objects.using(adapter.using).filter(kind=adapter.kind, sweep=rows[0].sweep)
        mine.filter(run_id__in=lost).delete()
    return [row for row in rows if row.run_id in written]


def as_json(known: RunFacts | Evidence | History) -> dict[str, Any]:
    """Return facts or evidence as JSON has them: times in ISO's form, durations in seconds."""
    # Not by dataclasses.asdict(), whose deep copies take longer than all else that is done for a run.
    return {name: plain(getattr(known, name)) for name in known.__dataclass_fields__}


def facts_of(kept: Any) -> RunFacts:
    """Return a run's facts from a row's `facts`, as they were."""
    return revived(RunFacts, kept, kind="", pk="", phase=Phase.UNKNOWN)


def evidence_of(kept: Any) -> Evidence:
    """Return the evidence from a row's `evidence`, as it was."""
    return revived(Evidence, kept)


def revived(cls: type[Data], kept: Any, **defaults: Any) -> Data:
    """Return a dataclass from its JSON. What an older row lacks, or what cannot be read, is the default."""
    values, hints = dict(defaults), get_type_hints(cls)
    kept = kept if isinstance(kept, Mapping) else {}
    for name in hints.keys() & kept.keys():
        try:
            values[name] = read(hints[name], kept[name])
        except (TypeError, ValueError, OverflowError):
            continue
    return cls(**values)


def read(hint: Any, value: Any) -> Any:
    """Return one value of a dataclass from its JSON, by its type. Raises what the type's own reading raises."""
    hints = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if value is None and NoneType in hints:
        return None
    hint = next(each for each in hints if each is not NoneType)
    if hint is datetime:
        return datetime.fromisoformat(value)
    if hint is timedelta:
        return timedelta(seconds=value)
    if is_dataclass(hint):
        return revived(cast("type", hint), value)
    if get_origin(hint) is Sequence:
        return tuple(value)
    if issubclass(hint, Enum):
        return hint(value)
    if not isinstance(value, hint):
        raise TypeError
    return value


def plain(value: Any) -> Any:
    """Return a value as one that JSON knows."""
    if value is None or type(value) in (str, bool, int, float):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return as_json(value) if isinstance(value, History) else str(value)


def reaped_tasks(adapter: RunAdapter, task_ids: Iterable[str], since: datetime) -> list[Reaping]:
    """Return the reapings since then by which these tasks lost their runs."""
    rows = Reaping.objects.using(adapter.using).filter(kind=adapter.kind, task_id__in=list(task_ids), at__gt=since)
    # Said as well, for the index that is partial on it: it does not follow from a long list.
    return list(rows.exclude(task_id="").order_by("id"))


def unrevoked(adapter: RunAdapter, now: datetime, limit: int) -> list[Reaping]:
    """Return the reapings whose old task's revoke the broker has not taken yet, oldest first."""
    rows = Reaping.objects.using(adapter.using).filter(kind=adapter.kind, revoked_at=None, at__gt=now - REVOKE_WITHIN)
    return list(rows.exclude(task_id="").order_by("id")[:limit])


def mark(adapter: RunAdapter, column: str, rows: Iterable[Reaping], now: datetime) -> None:
    """Confirm that the broker has taken the rows' messages; `column` is revoked_at or published_at."""
    pks = [row.pk for row in rows]
    Reaping.objects.using(adapter.using).filter(pk__in=pks, **{column: None}).update(**{column: now})


def confirm(adapter: RunAdapter, runs: Iterable[RunFacts], now: datetime) -> None:
    """Confirm the runs' last dispatches, which an earlier sweep could not."""
    mine = Reaping.objects.using(adapter.using).filter(kind=adapter.kind, published_at=None)
    mine.filter(run_id__in=[run.pk for run in runs], new_task_id__in=[run.task_id for run in runs]).update(
        published_at=now
    )


def finalized(adapter: RunAdapter, parent: str, now: datetime, sweep: Sweep, actor: str) -> None:
    """Note that a parent was given its outcome, in the same transaction. Parents are no runs: their kind says so."""
    Reaping.objects.using(adapter.using).create(
        sweep=sweep,
        at=now,
        kind=f"{adapter.kind}.parent",
        run_id=parent,
        phase=Phase.RUNNING,
        action=Reaping.FINALIZE,
        reason=Reason.BY_HAND if actor else Reason.CHILDREN_ENDED,
        actor=actor,
    )


def dispatched_by_hand(adapter: RunAdapter, pk: Any, task_id: str, now: datetime) -> None:
    """Note a dispatch that a person or another program made, in the host's transaction: it resets the budgets."""
    Reaping.objects.using(adapter.using).create(
        at=now,
        kind=adapter.kind,
        run_id=str(pk),
        phase=Phase.QUEUED,
        action=Reaping.DISPATCH,
        reason=Reason.BY_HAND,
        new_task_id=task_id,
        published_at=now,
        actor="by hand",
    )


def refused(adapter: RunAdapter, pk: Any, now: datetime, **facts: str) -> None:
    """Note a late write that a run's fence refused. `facts`: task_id, worker, write."""
    RefusedWrite.objects.using(adapter.using).create(at=now, kind=adapter.kind, run_id=str(pk), **facts)


def of_run(adapter: RunAdapter, pk: str) -> QuerySet[Reaping]:
    """Return a run's rows, newest first."""
    return Reaping.objects.using(adapter.using).filter(kind=adapter.kind, run_id=pk).order_by(F("id").desc())
