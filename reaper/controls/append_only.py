"""Controls are appended, never changed: a kind's newest row counts, the older ones are its history."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from django.db import transaction
from django.db.models import QuerySet

from reaper.adapters import RunAdapter
from reaper.models import KindControl, PolicyOverride

Row = TypeVar("Row", KindControl, PolicyOverride)


def latest_row(model: type[Row], adapter: RunAdapter) -> Row | None:
    """Return a kind's newest row, or None when there is none yet."""
    return rows_of_kind(model, adapter).order_by("-id").first()


@contextmanager
def exclusive_append(model: type[Row], adapter: RunAdapter) -> Iterator[None]:
    """Open a transaction that alone may append to the kind's rows, for a row that builds on the newest one.

    Concurrent writers wait for the lock on the kind's first row, and then read what the other has written.
    """
    with transaction.atomic(using=adapter.using):
        # guard: concurrent changes of the mode
        # guard: concurrent edits of an override
        list(rows_of_kind(model, adapter).order_by("id").select_for_update()[:1])
        yield


def rows_of_kind(model: type[Row], adapter: RunAdapter) -> QuerySet[Row]:
    """Return a kind's rows, in no order."""
    return model._base_manager.using(adapter.using).filter(kind=adapter.kind)
