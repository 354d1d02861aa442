"""What a host defines for the checks, and the helpers that they share."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from django.db import connections, transaction
from django.utils import timezone
from django.utils.module_loading import import_string

from reaper.adapters import ModelRunAdapter, Phase, RunAdapter, RunFacts, RunUpdate
from reaper.core.decisions import Decision
from reaper.core.policy import Action
from reaper.core.reasons import Reason

if TYPE_CHECKING:
    from unittest import TestCase as _Base
else:
    _Base = object

# The facts that must be unchanged for a write, and the attribute of a `ModelRunAdapter` that names each one's column.
GUARDED_FACTS = {
    "task_id": "task_id_field",
    "queued_at": "queued_field",
    "started_at": "started_field",
    "progress_at": "progress_field",
}


class ContractBase(_Base):
    """The part of `AdapterContract` that a host fills in."""

    adapter: str
    """The dotted path of the adapter class, as in `REAPER["ADAPTERS"]`."""

    def make_queued(self) -> Any:
        """Create a run that waits for a worker, with a task id; return its row, or its key."""
        raise NotImplementedError

    def make_running(self) -> Any:
        """Create a run that a worker has started, with a task id; return its row, or its key."""
        raise NotImplementedError

    def make_finished(self) -> Any:
        """Create a run that has ended, with a task id; return its row, or its key."""
        raise NotImplementedError

    def make_finalizable_parent(self) -> Any:
        """Create an unfinished parent whose children have all ended. None: the kind has no parents."""
        return None

    def change_run(self, pk: str, fact: str) -> bool:
        """Change a run as a worker or a person would; return False if the kind does not have this fact.

        `fact`: "status" (the run ends), "task_id", "queued_at", "started_at" or "progress_at". Override it if the
        adapter is not a `ModelRunAdapter`.
        """
        adapter = self._adapter
        if not isinstance(adapter, ModelRunAdapter):
            self.skipTest("change_run() is not overridden")
        column = adapter.status_field if fact == "status" else getattr(adapter, GUARDED_FACTS[fact])
        if column is None:
            return False
        values = {"status": adapter.finished_statuses[0], "task_id": str(uuid4())}
        rows = adapter.model_class._base_manager.using(adapter.using).filter(pk=pk)
        rows.update(**{column: values.get(fact, timezone.now() + timedelta(seconds=1))})
        return True

    def setUp(self) -> None:
        """Create the adapter."""
        super().setUp()
        self._adapter: RunAdapter = import_string(self.adapter)()

    def _make(self, phase: Phase) -> RunFacts:
        makers = {Phase.QUEUED: self.make_queued, Phase.RUNNING: self.make_running, Phase.FINISHED: self.make_finished}
        return self._get(key_of(makers[phase]()))

    def _get(self, pk: str) -> RunFacts:
        run = self._adapter.get(pk)
        if run is None:
            self.fail(f"get({pk!r}) finds no run, though there is one.")
        return run

    def _call(self, method: str, argument: Any) -> Any:
        """Call a method that must not raise; in a savepoint, so that a failure does not spoil the transaction."""
        try:
            with transaction.atomic(self._adapter.using):
                return getattr(self._adapter, method)(argument)
        except Exception as error:
            self.fail(f"{method}({argument!r}) raised {type(error).__name__}: {error}")

    def _update(self, run: RunFacts, action: Action) -> RunUpdate:
        new_task_id = str(uuid4()) if action is Action.REQUEUE else ""
        return RunUpdate(run, Decision(action, Reason.ORPHANED), "Its worker died.", new_task_id)

    def _apply(self, *updates: RunUpdate) -> list[RunUpdate]:
        with transaction.atomic(self._adapter.using):
            return self._adapter.apply(updates, self._now())

    def _reopen(self, before: RunFacts) -> bool:
        with transaction.atomic(self._adapter.using):
            return self._adapter.reopen(before)

    def _now(self) -> datetime:
        return datetime.now(UTC)


def key_of(row: Any) -> str:
    """Return the key of a row, or of what is a key already."""
    return str(getattr(row, "pk", row))


@contextmanager
def locked_row(adapter: ModelRunAdapter, pk: str) -> Iterator[None]:
    """Lock a row in a transaction of another connection."""
    meta = adapter.model_class._meta
    other = connections[adapter.using].copy()
    quote = other.ops.quote_name
    try:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            query = f"SELECT 1 FROM {quote(meta.db_table)} WHERE {quote(str(meta.pk.column))} = %s FOR UPDATE"  # noqa: S608
            cursor.execute(query, [meta.pk.to_python(pk)])
        yield
    finally:
        other.rollback()
        other.close()
