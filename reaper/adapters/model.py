"""The seam: how the reaper reads and writes a host's runs. A host names its adapters in `REAPER["ADAPTERS"]`."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.apps import apps
from django.core import checks
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import connections, models, router
from django.db.models import Case, F, Model, Q, QuerySet, When
from django.db.models.functions import Concat, Left
from django.utils import timezone

from reaper.adapters import indexes
from reaper.core.decisions import Action, Decision
from reaper.core.facts import NO_EVIDENCE, Evidence, Phase, RunFacts
from reaper.db import pagination as rows
from reaper.db.expressions import InValues, case_by_pk, text_value


class RunUpdate(NamedTuple):
    """One run to be acted on: what it was decided on, the decision, and what is to be written."""

    run: RunFacts
    decision: Decision
    message: str
    new_task_id: str = ""
    evidence: Evidence = NO_EVIDENCE


class Message(NamedTuple):
    """What a run's Celery message carries besides the task's name and id; `options` are Celery's publishing options."""

    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}


class OwnerNotification(NamedTuple):
    """What a run's owner is told: what was done with it, when, why, and by whom ('' is the reaper itself)."""

    pk: str
    created_at: datetime
    action: str
    reason: str
    message: str
    actor: str = ""


class PhaseSummary(NamedTuple):
    """How many runs are in a phase, and the oldest of them, by the time that their rows say."""

    number: int
    oldest: Sequence[RunFacts] = ()


class RunAdapter(ABC):
    """One kind of run. Subclass `ModelRunAdapter` where the runs are rows of a Django model."""

    # The kind's name, in `KIND:ID` and in every record. At most 100 characters.
    kind: str
    # The name of the Celery task that does the work.
    task: str
    # The queue that its messages go to; None: the one that Celery's router names for the task.
    queue: str | None = None
    # True where a task that waits for its own retry leaves its row running: such a run is left alone.
    keeps_status_while_retrying = False
    # True where all runs go through one queue and start in the order of their dispatch: then one that still waits when
    # much later ones have started was overtaken. Only asked where the broker cannot be looked into.
    is_fifo = False
    # True where a person may undo that a run was ended: its status becomes again what it was, under the same task.
    supports_reopen = False
    # Policy values of this kind, by lower-case name; settings win over them.
    policy: Mapping[str, Any] = {}

    @property
    @abstractmethod
    def using(self) -> str:
        """Return the alias of the database that the runs are written to. The ledger is written there too."""

    @abstractmethod
    def iter_unfinished(self, phase: Phase) -> Iterator[list[RunFacts]]:
        """Yield the runs of a phase in pages, oldest first. It may yield too many: the rules refuse, not the query.

        Of `Phase.UNKNOWN`, the rows whose status is none of the known ones: they are counted, and left alone.
        """

    @abstractmethod
    def get(self, pk: str) -> RunFacts | None:
        """Return one run's facts, or None when there is no such run."""

    def get_all(self, pks: Sequence[str]) -> list[RunFacts]:
        """Return the facts of those of the runs that there are."""
        return [run for pk in pks if (run := self.get(pk)) is not None]

    def load(self, phase: Phase, most: int = 1) -> PhaseSummary:
        """Return how many runs of a phase there are, and the oldest of them, at most so many.

        Only shown, never acted on. Override it where there are many: this one reads them all.
        """
        pages = self.iter_unfinished(phase)
        first = next(pages, [])
        return PhaseSummary(len(first) + sum(map(len, pages)), first[:most])

    @abstractmethod
    def apply(self, changes: Sequence[RunUpdate], now: datetime) -> list[RunUpdate]:
        """Write the changes whose runs are still as they were seen, inside the caller's transaction; return those.

        A run that has moved on, or that somebody has locked, is left alone and not returned.
        """

    @abstractmethod
    def messages(self, runs: Sequence[RunFacts]) -> dict[str, Message]:
        """Return the Celery message of each run, by its key."""

    def task_ids_in_use(self, task_ids: Sequence[str]) -> set[str]:
        """Return those of the task ids that an unfinished run carries. Override it where ids may not be unique."""
        return set()

    def latest_started_dispatch(self) -> datetime | None:
        """Return when a run was dispatched that is among the newest and has started; None when no such is known.

        Runs that were dispatched long before it and still wait were overtaken.
        """
        return None

    def find_by_task_id(self, task_id: str) -> RunFacts | None:
        """Return the facts of the run that carries the task id, or None. Only shown to people, never acted on."""
        return None

    def reopen(self, was: RunFacts) -> bool:
        """Give a run that was ended the status that it had, inside the caller's transaction; True when this was done.

        Only where the run is still as it was left, under the same task. Asked only where `reopens` is True.
        """
        return False

    def notify_owner(self, told: OwnerNotification) -> None:  # noqa: B027 (most hosts have nobody to tell)
        """Tell whoever owns a run that it was failed, closed or requeued. Override it where somebody is to know.

        At least once: until it returns it is called again, for a day, and what it raises is logged.
        """

    def iter_finalizable_parents(self) -> Iterator[str]:
        """Yield the keys of parents that are unfinished though all their children have ended."""
        return iter(())

    def finalize(self, parent: str) -> bool:
        """Give a parent its outcome; True when this call did it. Idempotent; an unknown key is False."""
        return False

    def check(self) -> list[checks.CheckMessage]:
        """Return what is wrong with the adapter, for Django's system checks."""
        return []


class ModelRunAdapter(RunAdapter):
    """Runs that are rows of one model. Name the model, its statuses and its columns; None where it has no such one."""

    model: str
    queued_statuses: Sequence[str]
    running_statuses: Sequence[str]
    finished_statuses: Sequence[str]
    # Statuses that are no business of the reaper's, such as a pause. All others are counted as `unknown_status`.
    ignored_statuses: Sequence[str] = ()
    # The statuses to write.
    status_after_requeue: str
    status_after_fail: str
    status_after_close: str

    status_field = "status"
    task_id_field = "task_id"
    worker_field: str | None = None
    created_field: str | None = "created_at"
    queued_field: str | None = None
    started_field: str | None = None
    progress_field: str | None = None
    finished_field: str | None = None
    message_field: str | None = None
    code_field: str | None = None
    # The foreign key to the parent, and the parent's statuses in which it has ended.
    parent_field: str | None = None
    parent_status_field = "status"
    parent_finished_statuses: Sequence[str] = ()

    @property
    def model_class(self) -> type[Model]:
        """Return the model. Raises LookupError when no installed app has it."""
        return apps.get_model(self.model)

    @property
    def using(self) -> str:
        """Return the database that the router writes the model to."""
        return router.db_for_write(self.model_class)

    def queryset(self) -> QuerySet:
        """Return the rows that are runs. Override it to leave out those that are none, such as parents."""
        return self.model_class._base_manager.using(self.using).all()

    def iter_unfinished(self, phase: Phase) -> Iterator[list[RunFacts]]:
        """Yield the runs of a phase in pages, oldest first."""
        if phase is Phase.UNKNOWN:
            yield from self._pages(self.queryset().filter(self._others()), None)
            return
        # One equality query per status: an IN cannot use an index that is partial on one of them.
        for status in self.running_statuses if phase is Phase.RUNNING else self.queued_statuses:
            yield from self._pages(self.queryset().filter(**{self.status_field: status}), self._since(phase))

    def get(self, pk: str) -> RunFacts | None:
        """Return one run's facts, or None when no run has this key."""
        return self._one(pk=pk)

    def get_all(self, pks: Sequence[str]) -> list[RunFacts]:
        """Return the facts of those of the runs that there are. A value that no key can be is none's."""
        key, found = self.model_class._meta.pk, []
        for pk in pks:
            try:
                found.append(key.to_python(pk))
            except (ValueError, OverflowError, ValidationError):
                continue
        return [self._facts(row) for row in rows.fetch(self.queryset().filter(pk__in=found), self._columns())]

    def load(self, phase: Phase, most: int = 1) -> PhaseSummary:
        """Return how many runs of a phase there are, and the oldest of them."""
        number, first, by = 0, list[dict[str, Any]](), self._since(phase)
        for status in self.running_statuses if phase is Phase.RUNNING else self.queued_statuses:
            found = self.queryset().filter(**{self.status_field: status})
            here = found.count()
            number += here
            first += rows.oldest(found, self._columns(), by, most) if here else []
        # Each status has its oldest ones.
        first.sort(key=lambda row: row[by] if by else 0)
        return PhaseSummary(number, [self._facts(row) for row in first[:most]])

    def find_by_task_id(self, task_id: str) -> RunFacts | None:
        """Return the facts of the run that carries the task id, or None."""
        return self._one(**{self.task_id_field: task_id})

    def apply(self, changes: Sequence[RunUpdate], now: datetime) -> list[RunUpdate]:
        """Lock the rows that nobody else has locked, and write those that are still as they were seen."""
        base = self.model_class._base_manager.using(self.using)
        skip_locked = connections[self.using].features.has_select_for_update_skip_locked
        unfinished = Q(**{f"{self.status_field}__in": [*self.queued_statuses, *self.running_statuses]})
        wanted = base.filter(unfinished, InValues("pk", [change.run.pk for change in changes]))
        # In one order everywhere, so that two reapers never wait for each other where locked rows cannot be skipped.
        # guard: reap: locked rows are skipped
        locked = wanted.order_by("pk").select_for_update(skip_locked=skip_locked, of=("self",) if skip_locked else ())
        as_now = {str(row["pk"]): row for row in rows.fetch(locked, self._columns(self._compared))}
        won = [change for change in changes if self._as_seen(change.run, as_now.get(change.run.pk))]
        for action in Action:
            group = [change for change in won if change.decision.action is action]
            if group:
                self._write(base, action, group, now)
        return won

    def task_ids_in_use(self, task_ids: Sequence[str]) -> set[str]:
        """Return those of the task ids that an unfinished run carries."""
        # That it is not empty is said as well, for an index that is partial on it: it does not follow from a long list.
        every = self.model_class._base_manager.using(self.using)
        unfinished = every.filter(**{f"{self.status_field}__in": [*self.queued_statuses, *self.running_statuses]})
        runs = unfinished.filter(InValues(self.task_id_field, task_ids)).exclude(**{self.task_id_field: ""})
        return set(runs.order_by().values_list(self.task_id_field, flat=True))

    def reopen(self, was: RunFacts) -> bool:
        """Give a run that was failed or closed the status that it had, and forget its end."""
        left = {
            # guard: reopen: the status
            f"{self.status_field}__in": {self.status_after_fail, self.status_after_close},
            # guard: reopen: the task
            self.task_id_field: was.task_id,
        }
        values = {self.status_field: was.status, self.finished_field: None, self.code_field: ""}
        return bool(self.queryset().filter(pk=was.pk, **left).update(**{k: v for k, v in values.items() if k}))

    def latest_started_dispatch(self) -> datetime | None:
        """Return when the newest of the runs that have started was dispatched, where their order says something."""
        if not (self.is_fifo and self.created_field and self.started_field):
            return None
        started = self.queryset().exclude(**{self.started_field: None}).order_by(f"-{self.created_field}")
        row = next(iter(rows.fetch(started[:1], self._columns())), None)
        run = self._facts(row) if row else None
        return (run.queued_at or run.created_at) if run else None

    def _others(self) -> Q:
        """The rows whose status is none that the adapter names, in the words of the index that finds them."""
        return indexes.for_unmapped(self.model_class, self.status_field, self._known()).condition

    def _since(self, phase: Phase) -> str | None:
        """The column by which the runs of a phase are read, oldest first."""
        return (self.started_field if phase is Phase.RUNNING else self.queued_field) or self.created_field

    def _known(self) -> list[str]:
        return [*self.queued_statuses, *self.running_statuses, *self.finished_statuses, *self.ignored_statuses]

    def _one(self, **lookup: Any) -> RunFacts | None:
        """The first run that matches; a value that the column cannot hold matches none."""
        try:
            found = rows.fetch(self.queryset().filter(**lookup)[:1], self._columns())
        except (ValueError, OverflowError, ValidationError):
            return None
        return self._facts(found[0]) if found else None

    def _write(self, base: QuerySet, action: Action, group: list[RunUpdate], now: datetime) -> None:
        """Update one action's rows. They are locked and compared already; the condition stands here as well, for
        databases whose locks are only promised."""
        guard = Q(**{f"{self.status_field}__in": {change.run.status for change in group}})
        seen_ids = {change.run.task_id for change in group}
        of_task = Q(InValues(self.task_id_field, seen_ids - {None}))
        # guard: reap: a task that is NULL
        if None in seen_ids:
            of_task |= Q(**{self.task_id_field: None})
        mine = base.filter(guard, of_task, InValues("pk", [change.run.pk for change in group]))
        # guard: reap: changed rows undo the batch
        if mine.update(**self._values(action, group, now)) != len(group):
            raise RuntimeError(f"{self.kind}: rows changed while they were locked; nothing of this batch was written")

    def _values(self, action: Action, group: list[RunUpdate], now: datetime) -> dict[str, Any]:
        if action is Action.REQUEUE:
            values = {
                self.status_field: self.status_after_requeue,
                self.task_id_field: case_by_pk({change.run.pk: change.new_task_id for change in group}),
                self.queued_field: now,
                self.started_field: None,
                self.progress_field: None,
                self.worker_field: "",
            }
        else:
            values = {
                self.status_field: self.status_after_close if action is Action.CLOSE else self.status_after_fail,
                self.finished_field: now,
                self.code_field: case_by_pk({change.run.pk: change.decision.code for change in group}),
                self.message_field: self._appended(case_by_pk({change.run.pk: change.message for change in group})),
            }
        return {column: value for column, value in values.items() if column}

    def _appended(self, message: Any) -> Any:
        """The message behind the one that is there, cut to what the column holds."""
        if not self.message_field:
            return None
        empty = Q(**{self.message_field: ""}) | Q(**{self.message_field: None})
        line_end = Case(When(empty, then=text_value("")), default=text_value("\n"))
        appended = Concat(F(self.message_field), line_end, message, output_field=models.TextField())
        limit = self.model_class._meta.get_field(self.message_field).max_length  # type: ignore[union-attr]
        return Left(appended, limit) if limit else appended

    def _as_seen(self, run: RunFacts, row: Mapping[str, Any] | None) -> bool:
        """True when the row still has the status, task, start and progress that the decision was made on."""
        if row is None:
            return False
        status, task_id, *stamps = self._compared
        now = [str(row[status]), row[task_id], *(as_aware(row, column) for column in stamps)]
        # guard: reap: the dispatch as seen
        # guard: reap: the progress as seen
        # guard: reap: the start as seen
        # guard: reap: the status as seen
        # guard: reap: the task as seen
        return now == [run.status, run.task_id, run.queued_at, run.started_at, run.progress_at]

    def _pages(self, found: QuerySet, by: str | None) -> Iterator[list[RunFacts]]:
        for page in rows.paginate(found, self._columns(), by):
            yield [self._facts(row) for row in page]

    @property
    def _compared(self) -> list[Any]:
        """The columns that a worker's or a person's write would have changed."""
        return [self.status_field, self.task_id_field, self.queued_field, self.started_field, self.progress_field]

    def _columns(self, named: Sequence[str | None] = ()) -> list[str]:
        """The key and the named columns that there are; by default all that are facts."""
        if not named:
            named = [*self._compared, self.worker_field, self.created_field, self.parent_field]
            named += [f"{self.parent_field}__{self.parent_status_field}"] if self.parent_field else []
        return ["pk", *dict.fromkeys(column for column in named if column)]

    def _facts(self, row: Mapping[str, Any]) -> RunFacts:
        status = row[self.status_field]
        parent = row[self.parent_field] if self.parent_field else None
        ended = row.get(f"{self.parent_field}__{self.parent_status_field}") in self.parent_finished_statuses
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
            parent_ended=parent is not None and ended,
        )

    def phase_of(self, status: Any) -> Phase:
        """Return the phase of one of the host's statuses."""
        for phase, statuses in (
            (Phase.QUEUED, self.queued_statuses),
            (Phase.RUNNING, self.running_statuses),
            (Phase.FINISHED, self.finished_statuses),
        ):
            if status in statuses:
                return phase
        return Phase.UNKNOWN

    def check(self) -> list[checks.CheckMessage]:
        """Return one error for a model that is not there or for each column that it does not have.

        Where there is none, one warning for each index that it lacks.
        """
        try:
            model = self.model_class
        except (LookupError, ValueError) as error:
            message = f"{self.kind}: its model {self.model!r} is not there: {error}"
            return [checks.Error(message, 'Name it as "app_label.Model" of an installed app.', id="reaper.E020")]
        found: list[checks.CheckMessage] = []
        for name, column in fields_ending_with(self, "_field").items():
            try:
                if column and not name.startswith("parent_status"):
                    model._meta.get_field(column)
            except FieldDoesNotExist:
                message = f"{self.kind}: {name} is {column!r}, which {self.model} does not have."
                hint = "Name one of the model's fields, or None where it has no such column."
                found.append(checks.Error(message, hint, id="reaper.E021"))
        return found or self._check_indexes(model)

    def _check_indexes(self, model: type[Model]) -> list[checks.CheckMessage]:
        since = {status: self._since(Phase.QUEUED) for status in self.queued_statuses}
        since |= {status: self._since(Phase.RUNNING) for status in self.running_statuses}
        return [
            checks.Warning(
                f"{self.kind}: {self.model} has no index for {index.purpose}: every sweep reads the whole table.",
                f"Add to its Meta.indexes: {index.line}",
                id="reaper.W020",
            )
            for index in indexes.find_missing(model, self.status_field, since, self._known())
        ]


def as_aware(row: Mapping[str, Any], column: str | None) -> datetime | None:
    """Return a column's time with its zone; None where the host has no such column."""
    stamp = row[column] if column else None
    return timezone.make_aware(stamp) if stamp and stamp.tzinfo is None else stamp


def fields_ending_with(adapter: RunAdapter, suffix: str) -> dict[str, Any]:
    """Return an adapter's attributes whose names end so, its base classes' included."""
    return {name: getattr(adapter, name) for name in dir(type(adapter)) if name.endswith(suffix)}
