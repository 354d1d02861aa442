"""Write the entries of a batch: one INSERT for hundreds of rows, which costs less than the UPDATE of their runs."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple, cast

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field, JSONField

from reaper.adapters import RunAdapter, RunUpdate
from reaper.core.facts import unattended_for
from reaper.core.serialization import to_json
from reaper.models import LedgerEntry, Sweep

COMMON_COLUMNS = ("sweep", "created_at", "kind", "actor", "applied")
"""What all entries of a batch have in common."""
OWN_COLUMNS = (
    *("run_id", "phase", "action", "reason", "terminate", "exhausted", "interrupted"),
    *("task_id", "new_task_id", "message", "facts", "unattended_seconds", "evidence"),
)
"""What `own_values` and the evidence fill, in this order."""
INSERT_COLUMNS = (*COMMON_COLUMNS, *OWN_COLUMNS)


class Statement(NamedTuple):
    """An SQL statement and its parameters."""

    sql: str
    parameters: list[Any]


def record_updates(adapter: RunAdapter, updates: Sequence[RunUpdate], now: datetime, sweep: Sweep, actor: str) -> None:
    """Write one entry per update, in the caller's transaction. `actor`: who asked for it; '' is the reaper itself."""
    connection = connections[adapter.using]
    common = (sweep.pk, connection.ops.adapt_datetimefield_value(now), adapter.kind, actor, True)
    # Runs of one dead worker share their evidence: encode it once.
    evidence_json = cache(to_json)
    rows = [(*common, *own_values(each, now), evidence_json(each.evidence)) for each in updates]
    step = connection.ops.bulk_batch_size(INSERT_COLUMNS, rows)
    # Not by bulk_create(), which takes longer for a row than all else that is done for its run.
    with connection.cursor() as cursor:
        for start in range(0, len(rows), step):
            cursor.execute(*insert_statement(connection, rows[start : start + step]))


def insert_statement(connection: BaseDatabaseWrapper, rows: Sequence[tuple]) -> Statement:
    """Return the statement that inserts these rows of `INSERT_COLUMNS` into the ledger.

    Values that all rows share are bound once: binding dominates the cost.
    """
    quote = connection.ops.quote_name
    table = LedgerEntry._meta
    fields = [cast("Field", table.get_field(name)) for name in INSERT_COLUMNS]
    differing = [
        index
        for index, values in enumerate(zip(*rows, strict=True))
        if INSERT_COLUMNS[index] == "run_id" or len(set(values)) > 1
    ]
    # PostgreSQL converts text to JSON implicitly only where the text is a literal.
    json_cast = "CAST({} AS jsonb)" if connection.vendor == "postgresql" else "{}"
    casts = [json_cast if isinstance(field, JSONField) else "{}" for field in fields]
    values = [casts[index].format(f"v{index}") if index in differing else "%s" for index in range(len(INSERT_COLUMNS))]
    first = ", ".join(f"%s AS v{index}" for index in differing)
    others = f" UNION ALL SELECT {', '.join(['%s'] * len(differing))}" * (len(rows) - 1)
    columns = ", ".join(quote(str(field.column)) for field in fields)
    sql = (
        f"INSERT INTO {quote(table.db_table)} ({columns}) "  # noqa: S608
        f"SELECT {', '.join(values)} FROM (SELECT {first}{others}) differing"
    )
    shared = [value for index, value in enumerate(rows[0]) if index not in differing]
    return Statement(sql, [*shared, *(row[index] for row in rows for index in differing)])


def own_values(update: RunUpdate, now: datetime) -> tuple[Any, ...]:
    """Return the values of `OWN_COLUMNS` of one update, without the evidence."""
    run = update.run
    decision = update.decision
    unattended = unattended_for(run, update.evidence, now)
    return (
        run.pk,
        str(run.phase),
        str(decision.action),
        str(decision.reason),
        decision.terminate,
        decision.exhausted,
        decision.interrupted,
        run.task_id or "",
        update.new_task_id,
        update.message,
        to_json(run),
        None if unattended is None else unattended.total_seconds(),
    )
