"""Reading rows as they are, also those that Python cannot hold: a year 20000 in one of them must not end a sweep."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import DataError
from django.db.models import BooleanField, F, Func, Q, QuerySet, Value
from django.db.models.lookups import GreaterThan

# Rows read at a time: memory stays flat however many there are.
PAGE = 1000
# What lies outside cannot be a Python datetime in every time zone.
EARLIEST, LATEST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
Row = dict[str, Any]


def fetch(rows: QuerySet, columns: Sequence[str]) -> list[Row]:
    """Return the rows as dicts. A value that cannot be read is None, and spoils neither its row nor the others."""
    try:
        return list(rows.values(*columns))
    except (ValueError, OverflowError, DataError):
        base = rows.model._base_manager.using(rows.db)
        return [fetch_one(base.filter(pk=pk), columns) for pk in list(rows.values_list("pk", flat=True))]


def fetch_one(row: QuerySet, columns: Sequence[str]) -> Row:
    """Return the columns of one row, each asked for by itself."""
    found: Row = {}
    for column in columns:
        try:
            found[column] = row.values_list(column, flat=True).first()
        except (ValueError, OverflowError, DataError):
            found[column] = None
    return found


def paginate(rows: QuerySet, columns: Sequence[str], by: str | None) -> Iterator[list[Row]]:
    """Yield the rows in pages by keyset, in the order of a timestamp: rows acted on meanwhile hide none behind them.

    Rows whose timestamp is NULL or cannot be read come first and by themselves: no comparison would ever find them.
    """
    if by is None:
        yield from iter_keyset(rows, columns, "pk")
        return
    yield from iter_keyset(rows.exclude(representable(by)), columns, "pk")
    yield from iter_keyset(rows.filter(representable(by)), columns, by, "pk")


def oldest(rows: QuerySet, columns: Sequence[str], by: str | None, most: int) -> list[Row]:
    """Return the first rows in the order of a timestamp, of those where it can be read."""
    found = rows.order_by("pk") if by is None else rows.filter(representable(by)).order_by(by, "pk")
    return fetch(found[:most], columns)


def representable(by: str) -> Q:
    """Return the condition that a timestamp is there and can be read."""
    return Q(
        **{f"{by}__range": [each if settings.USE_TZ else each.replace(tzinfo=None) for each in (EARLIEST, LATEST)]}
    )


def iter_keyset(rows: QuerySet, columns: Sequence[str], *order: str) -> Iterator[list[Row]]:
    """Yield the rows in pages, each starting behind the last row of the one before."""
    rest = rows
    while page := fetch(rest.order_by(*order)[:PAGE], columns):
        yield page
        rest = rows.filter(after_row(rows, page[-1], order))


def after_row(rows: QuerySet, last: Row, order: Sequence[str]) -> GreaterThan:
    """Return the condition of lying behind the last row of a page.

    The columns are compared as one, as an index has them: with "or" between them PostgreSQL would sort all that is left
    for every page.
    """
    fields = [rows.model._meta.pk if name == "pk" else rows.model._meta.get_field(name) for name in order]
    values = [Value(last[name], output_field=field) for name, field in zip(order, fields, strict=True)]
    return GreaterThan(row_value(*map(F, order)), row_value(*values))


def row_value(*columns: F | Value) -> Func:
    """Return the columns as one value that is compared from the left to the right."""
    return Func(*columns, template="(%(expressions)s)", output_field=BooleanField())
