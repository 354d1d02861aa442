"""Read rows as dicts, page by page, and survive values that Python cannot hold: one bad row must not end a sweep."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import DataError
from django.db.models import BooleanField, F, Func, Q, QuerySet, Value
from django.db.models.lookups import GreaterThan

# Rows read at a time: memory use stays flat however many there are.
PAGE = 1000
# Timestamps outside of these (the year 20000) are no Python datetime in every time zone.
EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
LATEST = datetime(9999, 12, 30, tzinfo=UTC)
UNREADABLE = (ValueError, OverflowError, DataError)

Row = dict[str, Any]


def fetch(rows: QuerySet, columns: Sequence[str]) -> list[Row]:
    """Return the rows as dicts. A value that cannot be read is None; all others are intact."""
    try:
        return list(rows.values(*columns))
    except UNREADABLE:
        base = rows.model._base_manager.using(rows.db)
        return [fetch_one(base.filter(pk=pk), columns) for pk in list(rows.values_list("pk", flat=True))]


def fetch_one(row: QuerySet, columns: Sequence[str]) -> Row:
    """Return the columns of one row, each read by a query of its own; None for a value that cannot be read."""
    values: Row = {}
    for column in columns:
        try:
            values[column] = row.values_list(column, flat=True).first()
        except UNREADABLE:
            values[column] = None
    return values


def paginate(rows: QuerySet, columns: Sequence[str], order_by: str | None) -> Iterator[list[Row]]:
    """Yield the rows in pages, in the order of a timestamp; None: of the key. Rows that change hide no others.

    `columns` must contain "pk" and `order_by`. Rows whose timestamp is NULL or cannot be read come first and by
    themselves: no comparison would ever find them.
    """
    if order_by is None:
        yield from iter_keyset(rows, columns, "pk")
        return
    yield from iter_keyset(rows.exclude(representable(order_by)), columns, "pk")
    yield from iter_keyset(rows.filter(representable(order_by)), columns, order_by, "pk")


def oldest(rows: QuerySet, columns: Sequence[str], order_by: str | None, limit: int) -> list[Row]:
    """Return the first rows in the order of a timestamp (None: of the key), of those whose timestamp can be read."""
    ordered = rows.order_by("pk") if order_by is None else rows.filter(representable(order_by)).order_by(order_by, "pk")
    return fetch(ordered[:limit], columns)


def representable(column: str) -> Q:
    """Return the condition that a timestamp is not NULL and can be read."""
    bounds = [bound if settings.USE_TZ else bound.replace(tzinfo=None) for bound in (EARLIEST, LATEST)]
    return Q(**{f"{column}__range": bounds})


def iter_keyset(rows: QuerySet, columns: Sequence[str], *order: str) -> Iterator[list[Row]]:
    """Yield the rows in pages, each starting after the last row of the one before."""
    rest = rows
    while page := fetch(rest.order_by(*order)[:PAGE], columns):
        yield page
        rest = rows.filter(after_row(rows, page[-1], order))


def after_row(rows: QuerySet, last: Row, order: Sequence[str]) -> GreaterThan:
    """Return the condition of coming after the last row of a page.

    The columns are compared as one value, as an index has them: with OR between them PostgreSQL would sort all that is
    left for every page.
    """
    fields = [rows.model._meta.pk if name == "pk" else rows.model._meta.get_field(name) for name in order]
    values = [Value(last[name], output_field=field) for name, field in zip(order, fields, strict=True)]
    return GreaterThan(row_value(*map(F, order)), row_value(*values))


def row_value(*columns: F | Value) -> Func:
    """Return the columns as one value, which is compared from left to right."""
    return Func(*columns, template="(%(expressions)s)", output_field=BooleanField())
