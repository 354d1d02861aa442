"""Writing the runs of a model: only rows that are unchanged since the decision was made."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.db import connections
from django.db.models import Case, F, Q, QuerySet, TextField, When
from django.db.models.functions import Concat, Left

from reaper.adapters.base import RunUpdate
from reaper.adapters.model_mapping import ModelMapping, as_aware, existing_columns
from reaper.core.facts import RunFacts
from reaper.core.policy import Action
from reaper.db import pagination
from reaper.db.expressions import InValues, case_by_pk, text_value


class ModelWriter(ModelMapping):
    """The writing half of `ModelRunAdapter`."""

    def apply(self, updates: Sequence[RunUpdate], now: datetime) -> list[RunUpdate]:
        """Lock the rows that nobody else has locked, write those that are unchanged, and return their updates.

        Raises RuntimeError when a row changed although it was locked; the caller must then roll back.
        """
        current = self._lock_rows([update.run.pk for update in updates])
        applied = [update for update in updates if self._is_unchanged(update.run, current.get(update.run.pk))]
        for action in Action:
            group = [update for update in applied if update.decision.action is action]
            if group:
                self._write(action, group, now)
        return applied

    def reopen(self, before: RunFacts) -> bool:
        """Give a run that was failed or closed its former status, and clear its end; True if this was done."""
        as_left_by_reaper = {
            # guard: reopen: the status
            f"{self.status_field}__in": {self.status_after_fail, self.status_after_close},
            # guard: reopen: the task
            self.task_id_field: before.task_id,
        }
        values = {self.status_field: before.status, self.finished_field: None, self.code_field: ""}
        written = {column: value for column, value in values.items() if column}
        return bool(self.queryset().filter(pk=before.pk, **as_left_by_reaper).update(**written))

    def _lock_rows(self, pks: Sequence[str]) -> dict[str, pagination.Row]:
        """Lock those of the rows that are unfinished and not locked; return their guard columns by key."""
        skip_locked = connections[self.using].features.has_select_for_update_skip_locked
        unfinished = Q(**{f"{self.status_field}__in": self._unfinished_statuses()})
        # Always in the same order, so that two sweeps never deadlock where locked rows cannot be skipped.
        rows = self._all_rows().filter(unfinished, InValues("pk", pks)).order_by("pk")
        # guard: reap: locked rows are skipped
        locked = rows.select_for_update(skip_locked=skip_locked, of=("self",) if skip_locked else ())
        return {str(row["pk"]): row for row in pagination.fetch(locked, existing_columns(self._guard_columns))}

    def _is_unchanged(self, run: RunFacts, row: Mapping[str, Any] | None) -> bool:
        """True when the row still has the status, task, dispatch, start and progress that the decision was made on."""
        if row is None:
            return False
        stamps = [as_aware(row, column) for column in (self.queued_field, self.started_field, self.progress_field)]
        current = [str(row[self.status_field]), row[self.task_id_field], *stamps]
        # guard: reap: the dispatch is unchanged
        # guard: reap: the progress is unchanged
        # guard: reap: the start is unchanged
        # guard: reap: the status is unchanged
        # guard: reap: the task is unchanged
        return current == [run.status, run.task_id, run.queued_at, run.started_at, run.progress_at]

    def _write(self, action: Action, group: list[RunUpdate], now: datetime) -> None:
        """Update one action's rows.

        They are locked and compared already. The condition is repeated for databases without row locks (SQLite).
        """
        unchanged = self._decided_on([update.run for update in group])
        # guard: reap: changed rows roll the batch back
        if unchanged.update(**self._update_values(action, group, now)) != len(group):
            raise RuntimeError(f"{self.kind}: rows changed while they were locked; nothing of this batch was written")

    def _decided_on(self, runs: Sequence[RunFacts]) -> QuerySet:
        """The runs' rows that still have one of the statuses and one of the task ids that the runs had."""
        with_status = Q(**{f"{self.status_field}__in": {run.status for run in runs}})
        task_ids = {run.task_id for run in runs}
        with_task = Q(InValues(self.task_id_field, task_ids - {None}))
        # guard: reap: the task is NULL
        if None in task_ids:
            with_task |= Q(**{self.task_id_field: None})
        return self._all_rows().filter(with_status, with_task, InValues("pk", [run.pk for run in runs]))

    def _update_values(self, action: Action, group: list[RunUpdate], now: datetime) -> dict[str, Any]:
        values: dict[str | None, Any]
        if action is Action.REQUEUE:
            values = {
                self.status_field: self.status_after_requeue,
                self.task_id_field: case_by_pk({update.run.pk: update.new_task_id for update in group}),
                self.queued_field: now,
                self.started_field: None,
                self.progress_field: None,
                self.worker_field: "",
            }
        else:
            values = {
                self.status_field: self.status_after_close if action is Action.CLOSE else self.status_after_fail,
                self.finished_field: now,
                self.code_field: case_by_pk({update.run.pk: update.decision.code for update in group}),
                self.message_field: self._append_message(
                    case_by_pk({update.run.pk: update.message for update in group})
                ),
            }
        return {column: value for column, value in values.items() if column}

    def _append_message(self, message: Any) -> Any:
        """The row's message with another line behind it, cut to what the column holds."""
        if not self.message_field:
            return None
        empty = Q(**{self.message_field: ""}) | Q(**{self.message_field: None})
        line_end = Case(When(empty, then=text_value("")), default=text_value("\n"))
        appended = Concat(F(self.message_field), line_end, message, output_field=TextField())
        limit = self.model_class._meta.get_field(self.message_field).max_length  # type: ignore[union-attr]
        return Left(appended, limit) if limit else appended
