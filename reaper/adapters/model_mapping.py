"""How the columns and statuses of a host's model map to the facts of a run."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.apps import apps
from django.db import router
from django.db.models import Model, QuerySet
from django.utils import timezone

from reaper.adapters.base import RunAdapter
from reaper.core.facts import Phase, RunFacts


class ModelMapping(RunAdapter):
    """The names of a model, its statuses and its columns, and the facts that are read from them.

    Each `…_field` names a column; None means that the model has no such column.
    """

    model: str
    """The model, as "app_label.Model". Required."""
    queued_statuses: Sequence[str]
    """The statuses of a run that waits for a worker. Required."""
    running_statuses: Sequence[str]
    """The statuses of a run that a worker has started. Required."""
    finished_statuses: Sequence[str]
    """The statuses of a run that has ended, well or badly. Required."""
    ignored_statuses: Sequence[str] = ()
    """Statuses that the reaper must not touch, such as a pause. Runs in a status that is in none of the four lists are
    left alone too, but reported as `unknown_status`."""
    status_after_requeue: str
    """The status to write when a run is requeued; one of `queued_statuses`. Required."""
    status_after_fail: str
    """The status to write when a run is failed; one of `finished_statuses`. Required."""
    status_after_close: str
    """The status to write when a run is closed because its parent has ended; one of `finished_statuses`. Required."""

    status_field = "status"
    """The column of the status."""
    task_id_field = "task_id"
    """The column of the Celery task id of the current attempt; '' or NULL if no task was ever sent."""
    worker_field: str | None = None
    """The column in which a claim stores `reaper.api.worker_name()`. With it the runs of a dead worker are found within
    seconds; without it only through the worker's last heartbeat."""
    created_field: str | None = "created_at"
    """The column of the row's creation time: the age of a run for which no better time is known."""
    queued_field: str | None = None
    """The column of the time of the last dispatch. With it waiting times are true after a second dispatch."""
    started_field: str | None = None
    """The column of the time of the current attempt's start. With it running times do not include the waiting."""
    progress_field: str | None = None
    """The column of the time of the task's last progress. With it `STALL_TIMEOUT` works. Do not index it: every write
    of progress would have to update the index."""
    finished_field: str | None = None
    """The column to write the time to at which a run was failed or closed."""
    message_field: str | None = None
    """The text column to append the reason to, as a sentence, when a run is failed or closed."""
    code_field: str | None = None
    """The text column to write the reason to, as a code such as "orphaned", when a run is failed or closed."""
    parent_field: str | None = None
    """The foreign key to the run's parent, for runs that are children. With it they are closed when the parent ends."""
    parent_status_field = "status"
    """The column of the status in the parent's model."""
    parent_finished_statuses: Sequence[str] = ()
    """The parent's statuses in which it has ended."""

    @property
    def model_class(self) -> type[Model]:
        """Return the model. Raises LookupError when no installed app has it."""
        return apps.get_model(self.model)

    @property
    def using(self) -> str:
        """Return the alias of the database that the router writes the model to."""
        return router.db_for_write(self.model_class)

    def queryset(self) -> QuerySet:
        """Return the rows that are runs. Override it to leave out rows that are not, such as parents."""
        return self._all_rows()

    def phase_of(self, status: Any) -> Phase:
        """Return the phase of one of the host's statuses; `Phase.UNKNOWN` for any other value."""
        for phase, statuses in (
            (Phase.QUEUED, self.queued_statuses),
            (Phase.RUNNING, self.running_statuses),
            (Phase.FINISHED, self.finished_statuses),
        ):
            if status in statuses:
                return phase
        return Phase.UNKNOWN

    def _all_rows(self) -> QuerySet:
        return self.model_class._base_manager.using(self.using).all()

    def _unfinished_statuses(self) -> list[str]:
        return [*self.queued_statuses, *self.running_statuses]

    def _mapped_statuses(self) -> list[str]:
        """All statuses that the adapter names, in the order in which the index on the others must name them."""
        return [*self._unfinished_statuses(), *self.finished_statuses, *self.ignored_statuses]

    def _statuses_of(self, phase: Phase) -> Sequence[str]:
        return self.running_statuses if phase is Phase.RUNNING else self.queued_statuses

    def _age_column(self, phase: Phase) -> str | None:
        """The column by which the runs of a phase are read, oldest first."""
        since = self.started_field if phase is Phase.RUNNING else self.queued_field
        return since or self.created_field

    @property
    def _guard_columns(self) -> list[str | None]:
        """The columns that a concurrent write by a worker or a person would have changed."""
        return [self.status_field, self.task_id_field, self.queued_field, self.started_field, self.progress_field]

    def _fact_columns(self) -> list[str]:
        """The key and all columns that are facts of a run."""
        named = [*self._guard_columns, self.worker_field, self.created_field, self.parent_field]
        if self.parent_field:
            named.append(self._parent_status_path)
        return existing_columns(named)

    @property
    def _parent_status_path(self) -> str:
        return f"{self.parent_field}__{self.parent_status_field}"

    def _facts(self, row: Mapping[str, Any]) -> RunFacts:
        status = row[self.status_field]
        parent = row[self.parent_field] if self.parent_field else None
        has_ended = row.get(self._parent_status_path) in self.parent_finished_statuses
        return RunFacts(
            kind=self.kind,
            pk=str(row["pk"]),
            phase=self.phase_of(status),
            status=str(status),
            task_id=row[self.task_id_field],
            worker=(row[self.worker_field] or "") if self.worker_field else "",
            created_at=as_aware(row, self.created_field),
            queued_at=as_aware(row, self.queued_field),
            started_at=as_aware(row, self.started_field),
            progress_at=as_aware(row, self.progress_field),
            parent=None if parent is None else str(parent),
            parent_ended=parent is not None and has_ended,
        )


def existing_columns(named: Sequence[str | None]) -> list[str]:
    """Return "pk" and the named columns, each once, without those that the model does not have (None)."""
    return ["pk", *dict.fromkeys(column for column in named if column)]


def as_aware(row: Mapping[str, Any], column: str | None) -> datetime | None:
    """Return a column's time with its zone; None where the host has no such column."""
    stamp = row[column] if column else None
    return timezone.make_aware(stamp) if stamp and stamp.tzinfo is None else stamp
