"""Functions of the reaper for a host's own code. Import this only after Django's apps are loaded.

`model_or_kind` is a model class that exactly one of the adapters reads, or an adapter's kind. Every function that takes
one raises LookupError when no adapter matches, and ImproperlyConfigured when `settings.REAPER` is wrong.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from django.db.models import Model, QuerySet

from reaper.adapters import ModelRunAdapter, RunAdapter
from reaper.conf import clock
from reaper.conf import settings as conf
from reaper.db import pagination
from reaper.ledger import manual
from reaper.workers import identity

__all__ = ["adapter_for", "now", "paginate", "record_manual_dispatch", "record_refused_write", "worker_name"]


def worker_name() -> str:
    """Return the name to store with a run that is claimed: "hostname/incarnation" of the worker that this runs in.

    It is the same in all processes of a worker, and another one after the worker was restarted. '' outside of a worker.
    """
    return identity.worker_name()


def adapter_for(model_or_kind: type[Model] | str) -> RunAdapter:
    """Return the adapter of a model or kind."""
    adapters = conf.adapters()
    if isinstance(model_or_kind, str):
        if model_or_kind not in adapters:
            raise LookupError(f"No adapter has the kind {model_or_kind!r}; the kinds are {', '.join(adapters)}.")
        return adapters[model_or_kind]
    found = [
        adapter
        for adapter in adapters.values()
        if isinstance(adapter, ModelRunAdapter) and adapter.model_class is model_or_kind
    ]
    if len(found) != 1:
        raise LookupError(f"{len(found)} adapters read {model_or_kind.__name__}; pass the kind of the one you mean.")
    return found[0]


def record_manual_dispatch(model_or_kind: type[Model] | str, pk: Any, task_id: str) -> None:
    """Record that a person or another program has dispatched a run under a new task id: its retry budgets start anew.

    Call it inside the transaction that stores the task id, so that both are kept or neither.
    """
    adapter = adapter_for(model_or_kind)
    manual.record_manual_dispatch(adapter, pk, task_id, clock.now(adapter.using))


def record_refused_write(model_or_kind: type[Model] | str, pk: Any, *, task_id: str, worker: str, write: str) -> None:
    """Record that a task's write to a run was refused because the run was no longer that task's.

    `write` says in a word or two what it tried ("complete"); `worker` is the task's `worker_name()`. Shown in the admin
    as a rejected late write: a few are normal after a recovery, many mean that healthy tasks lose their runs.
    """
    adapter = adapter_for(model_or_kind)
    manual.record_refused_write(adapter, pk, clock.now(adapter.using), task_id=task_id, worker=worker, write=write)


def paginate(queryset: QuerySet, columns: Sequence[str], order_by: str | None = None) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a queryset in pages of up to 1,000, as dicts of "pk", the columns, and `order_by`.

    `order_by` is the timestamp in whose order to read; None is the order of the key. Pages are found by keyset: rows
    that are changed in the meantime hide no others, and PostgreSQL plans each page for all its rows, which it does not
    for `.iterator()`. A value that Python cannot hold (the year 20000) is None.
    """
    needed = ["pk", *columns, *([order_by] if order_by else [])]
    return pagination.paginate(queryset, list(dict.fromkeys(needed)), order_by)


def now(using: str = "default") -> datetime:
    """Return the time of the database `using`, which the reaper compares all timestamps with; aware.

    On databases other than PostgreSQL, and with `REAPER["CLOCK"] = "host"`, it is this machine's time.
    """
    return clock.now(using)
