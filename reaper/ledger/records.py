"""The ledger: what was done to a run before, and what of it the broker has not taken yet."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any, NamedTuple, cast

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F, Field, JSONField, QuerySet

from reaper.adapters import RunAdapter, RunUpdate
from reaper.core.facts import History, Phase, RunFacts, unattended_for
from reaper.core.policy import Action
from reaper.core.reasons import Reason
from reaper.core.serialization import to_compact, to_json
from reaper.db.expressions import InValues
from reaper.models import LedgerEntry, RefusedWrite, Sweep

# A task that was to be revoked this long ago has started, ended or been refused by its fence since.
REVOKE_WITHIN = timedelta(hours=1)
# The columns that are written for a change; first those that all rows of a batch have in common.
INSERT_COLUMNS = (
    *("sweep", "created_at", "kind", "actor"),
    *("run_id", "phase", "action", "reason", "terminate", "exhausted", "interrupted"),
    *("task_id", "new_task_id", "message", "facts", "unattended_seconds", "evidence"),
)


class RevokeRequest(NamedTuple):
    """A task that is to be revoked: its id, and whether it is to be killed by the worker that executes it."""

    task_id: str
    terminate: bool = False
    holder: Any = ""
    # A person wants it, though its run carries it still.
    wanted: bool = False

    @property
    def node(self) -> str:
        """Return the node to kill it at; '' where it is only forbidden to start."""
        # guard: a kill only where it executes
        return str(self.holder or "").partition("/")[0] if self.terminate else ""


def with_history(adapter: RunAdapter, runs: Sequence[RunFacts]) -> list[RunFacts]:
    """Return the runs with what the ledger says of each: one query."""
    mine: QuerySet = LedgerEntry.objects.using(adapter.using).filter(kind=adapter.kind)
    rows = mine.filter(InValues("run_id", [run.pk for run in runs]))
    fields = ("run_id", "created_at", "action", "phase", "interrupted", "actor", "new_task_id", "published_at")
    past: dict[str, History] = {}
    for row in rows.order_by("id").values(*fields):
        past[row["run_id"]] = apply_row(past.get(row["run_id"], History()), row)
    return [replace(run, history=past[run.pk]) if run.pk in past else run for run in runs]


def apply_row(history: History, row: dict[str, Any]) -> History:
    """Return the history with one more ledger row. What a person did starts the budgets anew."""
    unpublished = row["new_task_id"] if row["published_at"] is None else ""
    made = row["created_at"] if unpublished else None
    # guard: budgets begin anew by hand only
    if row["actor"]:
        return History(unpublished_task_id=unpublished, unpublished_at=made)
    if row["action"] != Action.REQUEUE:
        return history
    started, interrupted = row["phase"] == Phase.RUNNING, row["interrupted"]
    return History(
        requeues=history.requeues + (started and not interrupted),
        redispatches=history.redispatches + (not started),
        interruptions=history.interruptions + (started and interrupted),
        last_action_at=row["created_at"],
        unpublished_task_id=unpublished,
        unpublished_at=made,
    )


def record_updates(adapter: RunAdapter, changes: Sequence[RunUpdate], now: datetime, sweep: Sweep, actor: str) -> None:
    """Write one row per change, in the caller's transaction."""
    connection = connections[adapter.using]
    same = (sweep.pk, connection.ops.adapt_datetimefield_value(now), adapter.kind, actor)
    # Of the runs that a worker held when it died, it is the same.
    evidence = cache(to_json)
    rows = [(*same, *row_values(each, now), evidence(each.evidence)) for each in changes]
    step = connection.ops.bulk_batch_size(INSERT_COLUMNS, rows)
    # Not by bulk_create(), which takes longer for a row than all else that is done for its run.
    with connection.cursor() as cursor:
        for start in range(0, len(rows), step):
            cursor.execute(*insert_statement(connection, rows[start : start + step]))


def insert_statement(connection: BaseDatabaseWrapper, rows: Sequence[tuple]) -> tuple[str, list[Any]]:
    """Return the statement that adds these rows of the ledger, and its parameters.

    What all of them have in common stands in it once: to read a value for every row takes longer than to add the row.
    """
    quote, table = connection.ops.quote_name, LedgerEntry._meta
    fields = [cast("Field", table.get_field(name)) for name in INSERT_COLUMNS]
    own = [
        at
        for at, values in enumerate(zip(*rows, strict=True))
        if INSERT_COLUMNS[at] == "run_id" or len(set(values)) > 1
    ]
    # PostgreSQL takes no text for JSON, unless it stands there by itself.
    is_json = "CAST({} AS jsonb)" if connection.vendor == "postgresql" else "{}"
    taken = [is_json if isinstance(field, JSONField) else "{}" for field in fields]
    values = [taken[at].format(f"v{at}") if at in own else "%s" for at in range(len(INSERT_COLUMNS))]
    first = ", ".join(f"%s AS v{at}" for at in own)
    others = f" UNION ALL SELECT {', '.join(['%s'] * len(own))}" * (len(rows) - 1)
    columns = ", ".join(quote(str(field.column)) for field in fields)
    sql = (
        f"INSERT INTO {quote(table.db_table)} ({columns}) "  # noqa: S608
        f"SELECT {', '.join(values)} FROM (SELECT {first}{others}) its_own"
    )
    common = [value for at, value in enumerate(rows[0]) if at not in own]
    return sql, [*common, *(row[at] for row in rows for at in own)]


def row_values(change: RunUpdate, now: datetime) -> tuple[Any, ...]:
    """Return what a row says of its change alone, without the evidence, in the order of ROW."""
    run, decision = change.run, change.decision
    words = (run.task_id or "", change.new_task_id, change.message, to_json(run))
    alone = unattended_for(run, change.evidence, now)
    seconds = None if alone is None else alone.total_seconds()
    return (
        run.pk,
        str(run.phase),
        str(decision.action),
        str(decision.reason),
        decision.terminate,
        decision.exhausted,
        decision.interrupted,
        *words,
        seconds,
    )


def entries_of_tasks(adapter: RunAdapter, task_ids: Iterable[str], since: datetime) -> list[LedgerEntry]:
    """Return the reapings since then by which these tasks lost their runs."""
    rows = LedgerEntry.objects.using(adapter.using).filter(
        kind=adapter.kind, task_id__in=list(task_ids), created_at__gt=since
    )
    # Said as well, for the index that is partial on it: it does not follow from a long list.
    return list(rows.exclude(task_id="").order_by("id"))


def sweeps_owing_revokes(adapter: RunAdapter, now: datetime) -> QuerySet[Sweep]:
    """Return the sweeps of which the broker has not taken every revoke, or that were cut off before; oldest first."""
    mine = Sweep.objects.using(adapter.using).filter(kind=adapter.kind, revoked_at=None, idle=False)
    return mine.filter(started_at__gt=now - REVOKE_WITHIN).order_by("id")


def revoke_request(change: RunUpdate) -> RevokeRequest:
    """Return the task that lost its run by a change, or that a person wants to be revoked."""
    wanted = change.decision.action is Action.LEAVE
    return RevokeRequest(change.run.task_id or "", change.decision.terminate, change.evidence.holder, wanted)


def owed_revokes(adapter: RunAdapter, sweep: Sweep) -> list[RevokeRequest]:
    """Return the tasks that lost their runs by a sweep, or that a person wanted to be revoked."""
    rows = LedgerEntry.objects.using(adapter.using).filter(sweep=sweep).exclude(task_id="").order_by("id")
    found = rows.values_list("task_id", "terminate", "evidence__holder", "action")
    return [
        RevokeRequest(task_id, kill, holder, action == LedgerEntry.REVOKE) for task_id, kill, holder, action in found
    ]


def confirm(adapter: RunAdapter, task_ids: Mapping[str, str], now: datetime) -> None:
    """Confirm that the broker has taken these dispatches, by run; perhaps those of an earlier sweep."""
    mine = LedgerEntry.objects.using(adapter.using).filter(kind=adapter.kind, published_at=None)
    mine.filter(InValues("run_id", task_ids), InValues("new_task_id", task_ids.values())).update(published_at=now)


def record_finalization(adapter: RunAdapter, parent: str, now: datetime, sweep: Sweep, actor: str) -> None:
    """Note that a parent was given its outcome, in the same transaction. Parents are no runs: their kind says so."""
    LedgerEntry.objects.using(adapter.using).create(
        sweep=sweep,
        created_at=now,
        kind=f"{adapter.kind}.parent",
        run_id=parent,
        phase=Phase.RUNNING,
        action=LedgerEntry.FINALIZE,
        reason=Reason.MANUAL if actor else Reason.CHILDREN_ENDED,
        actor=actor,
    )


def record_manual_action(
    adapter: RunAdapter, change: RunUpdate, action: str, now: datetime, sweep: Sweep, actor: str, task_id: str = ""
) -> None:
    """Note what a person did that is no action of the reaper's own. `task_id`: the task that is to be revoked."""
    run = change.run
    LedgerEntry.objects.using(adapter.using).create(
        sweep=sweep,
        created_at=now,
        kind=adapter.kind,
        run_id=run.pk,
        phase=run.phase,
        action=action,
        reason=Reason.MANUAL,
        terminate=change.decision.terminate,
        task_id=task_id,
        message=change.message,
        facts=to_compact(run),
        evidence=to_compact(change.evidence),
        actor=actor,
    )


def find_undoable_end(adapter: RunAdapter, pk: str) -> LedgerEntry | None:
    """Return the row by which a run was ended, where nothing was done to it since; None otherwise."""
    row = entries_of_run(adapter, pk).first()
    # guard: reopen: nothing done since
    return row if row and row.action in (Action.FAIL, Action.CLOSE) else None


def record_manual_dispatch(adapter: RunAdapter, pk: Any, task_id: str, now: datetime) -> None:
    """Note a dispatch that a person or another program made, in the host's transaction: it resets the budgets."""
    LedgerEntry.objects.using(adapter.using).create(
        created_at=now,
        kind=adapter.kind,
        run_id=str(pk),
        phase=Phase.QUEUED,
        action=LedgerEntry.DISPATCH,
        reason=Reason.MANUAL,
        new_task_id=task_id,
        published_at=now,
        actor="by hand",
    )


def record_refused_write(adapter: RunAdapter, pk: Any, now: datetime, **facts: str) -> None:
    """Note a late write that a run's fence refused. `facts`: task_id, worker, write."""
    RefusedWrite.objects.using(adapter.using).create(created_at=now, kind=adapter.kind, run_id=str(pk), **facts)


def entries_of_run(adapter: RunAdapter, pk: str) -> QuerySet[LedgerEntry]:
    """Return a run's rows, newest first."""
    return LedgerEntry.objects.using(adapter.using).filter(kind=adapter.kind, run_id=pk).order_by(F("id").desc())
