"""Reading the runs of a model."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import IntegerField, Q, QuerySet

from reaper.adapters import indexes
from reaper.adapters.base import PhaseSummary
from reaper.adapters.model_mapping import ModelMapping
from reaper.core.facts import Phase, RunFacts
from reaper.db import pagination
from reaper.db.expressions import InValues


class ModelReader(ModelMapping):
    """The reading half of `ModelRunAdapter`."""

    def iter_unfinished(self, phase: Phase) -> Iterator[list[RunFacts]]:
        """Yield the runs of a phase in pages, oldest first."""
        if phase is Phase.UNKNOWN:
            yield from self._iter_pages(self.queryset().filter(self._unmapped_condition()), None)
            return
        # One equality query per status: an IN cannot use an index that is partial on one of them.
        for status in self._statuses_of(phase):
            yield from self._iter_pages(self._with_status(status), self._age_column(phase))

    def get(self, pk: str) -> RunFacts | None:
        """Return one run's facts, or None when no run has this key."""
        return self._first(pk=pk)

    def get_all(self, pks: Sequence[str]) -> list[RunFacts]:
        """Return the facts of the runs that exist. Values that cannot be a key are skipped."""
        key = self.model_class._meta.pk
        possible = []
        for pk in pks:
            try:
                value = key.to_python(pk)
                # A number beyond the column's range makes SQLite's driver raise, for all the keys of the query.
                if isinstance(key, IntegerField):
                    key.run_validators(value)
                possible.append(value)
            except (ValueError, OverflowError, ValidationError):
                continue
        rows = pagination.fetch(self.queryset().filter(pk__in=possible), self._fact_columns())
        return [self._facts(row) for row in rows]

    def summarize(self, phase: Phase, limit: int = 1) -> PhaseSummary:
        """Return how many runs a phase has, and the `limit` oldest of them."""
        column = self._age_column(phase)
        count = 0
        oldest: list[pagination.Row] = []
        for status in self._statuses_of(phase):
            runs = self._with_status(status)
            if number := runs.count():
                count += number
                oldest += pagination.oldest(runs, self._fact_columns(), column, limit)
        # Each status has contributed its oldest ones; the oldest of all come first.
        oldest.sort(key=lambda row: row[column] if column else 0)
        return PhaseSummary(count, [self._facts(row) for row in oldest[:limit]])

    def find_by_task_id(self, task_id: str) -> RunFacts | None:
        """Return the facts of the run that carries the task id, or None."""
        return self._first(**{self.task_id_field: task_id})

    def task_ids_in_use(self, task_ids: Sequence[str]) -> set[str]:
        """Return which of the task ids an unfinished run carries."""
        unfinished = self._all_rows().filter(**{f"{self.status_field}__in": self._unfinished_statuses()})
        # Repeat `<> ''` so that PostgreSQL can use an index that is partial on it.
        runs = unfinished.filter(InValues(self.task_id_field, task_ids)).exclude(**{self.task_id_field: ""})
        return set(runs.order_by().values_list(self.task_id_field, flat=True))

    def latest_started_dispatch(self) -> datetime | None:
        """Return when the most recently created run that has started was dispatched; None unless `is_fifo`."""
        if not (self.is_fifo and self.created_field and self.started_field):
            return None
        started = self.queryset().exclude(**{self.started_field: None}).order_by(f"-{self.created_field}")
        rows = pagination.fetch(started[:1], self._fact_columns())
        if not rows:
            return None
        run = self._facts(rows[0])
        return run.queued_at or run.created_at

    def _with_status(self, status: str) -> QuerySet:
        return self.queryset().filter(**{self.status_field: status})

    def _unmapped_condition(self) -> Q:
        """The rows whose status the adapter does not name, in the same words as the index that finds them."""
        return indexes.for_unmapped(self.model_class, self.status_field, self._mapped_statuses()).condition

    def _first(self, **lookup: Any) -> RunFacts | None:
        """The first run that matches; a value that the column cannot hold matches none."""
        try:
            rows = pagination.fetch(self.queryset().filter(**lookup)[:1], self._fact_columns())
        except (ValueError, OverflowError, ValidationError):
            return None
        return self._facts(rows[0]) if rows else None

    def _iter_pages(self, runs: QuerySet, age_column: str | None) -> Iterator[list[RunFacts]]:
        for page in pagination.paginate(runs, self._fact_columns(), age_column):
            yield [self._facts(row) for row in page]
