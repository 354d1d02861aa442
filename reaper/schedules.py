"""The rows by which Beat starts the reaper's tasks: created once, and the admin's from then on.

Each migrate creates those whose task is not scheduled at all and never changes an existing row. So to stop a task,
disable its row: a deleted row is created again.
"""

from datetime import timedelta
from typing import Any, NamedTuple

from django.db import connections, models, router, transaction
from django_celery_beat.models import IntervalSchedule, PeriodicTask, PeriodicTasks

from reaper.conf.settings import QUEUE
from reaper.models import Sweep
from reaper.tasks import INTERVALS

DESCRIPTION = "Created by the reaper. Your changes are kept. To stop it, disable it: migrate re-creates a deleted row."
TABLES = (IntervalSchedule, PeriodicTask, PeriodicTasks, Sweep)
"""The tables that must exist before rows are created: until then the scheduled tasks could only fail."""


class Schedule(NamedTuple):
    """One of Beat's rows for the reaper's tasks."""

    name: str
    """Its name in the admin."""
    task: str
    """The task that it starts, by its full name."""
    every: timedelta
    """The interval."""

    @property
    def interval(self) -> dict[str, Any]:
        """Return the interval's fields: in days when it is whole days, otherwise in seconds."""
        if self.every % timedelta(days=1):
            return {"every": int(self.every.total_seconds()), "period": IntervalSchedule.SECONDS}
        return {"every": self.every.days, "period": IntervalSchedule.DAYS}


NAMES = {
    "reaper.tasks.sweep_running": "reaper: sweep running runs",
    "reaper.tasks.sweep_pending": "reaper: sweep queued runs",
    "reaper.tasks.finalize_parents": "reaper: complete orphaned parents",
    "reaper.tasks.raise_alerts": "reaper: raise alerts",
    "reaper.tasks.send_notifications": "reaper: send notifications",
    "reaper.tasks.prune_history": "reaper: prune history",
}
SCHEDULES = tuple(Schedule(NAMES[task], task, every) for task, every in INTERVALS.items())
TASKS = [schedule.task for schedule in SCHEDULES]


def create_after_migrate(using: str, **kwargs: Any) -> None:
    """Create the missing rows once the tables of Beat and of the reaper are complete. Receives `post_migrate`."""
    if using != router.db_for_write(PeriodicTask):
        return
    # The reaper's own table may live in another database, which is migrated by itself.
    if all(is_complete(model, using) for model in TABLES if router.db_for_write(model) == using):
        create_missing(using)


def is_complete(model: type[models.Model], using: str) -> bool:
    """Return whether the model's table exists with all its columns: migrate can stop earlier, or go backwards."""
    connection = connections[using]
    table = model._meta.db_table
    with connection.cursor() as cursor:
        if table not in connection.introspection.table_names(cursor):
            return False
        columns = {column.name for column in connection.introspection.get_table_description(cursor, table)}
    return {field.column for field in model._meta.concrete_fields} <= columns


def create_missing(using: str) -> list[str]:
    """Create the rows whose tasks are not scheduled yet; return their names."""
    rows = PeriodicTask.objects.using(using)
    scheduled = set(rows.filter(task__in=TASKS).values_list("task", flat=True))
    missing = [schedule for schedule in SCHEDULES if schedule.task not in scheduled]
    if not missing:
        return []
    with transaction.atomic(using=using):
        # Another migrate may be creating the same rows at this moment.
        rows.bulk_create([new_row(schedule, using) for schedule in missing], ignore_conflicts=True)
        # A bulk insert sends no signal, and without one Beat would not notice for up to five minutes.
        PeriodicTasks.update_changed()
    return [schedule.name for schedule in missing]


def new_row(schedule: Schedule, using: str) -> PeriodicTask:
    """Return the row of a schedule, not saved. It shares its interval with rows that have the same one."""
    intervals = IntervalSchedule.objects.using(using)
    # Not get_or_create: intervals are not unique, and any of several will do.
    interval = intervals.filter(**schedule.interval).order_by("pk").first() or intervals.create(**schedule.interval)
    return PeriodicTask(
        name=schedule.name,
        task=schedule.task,
        interval=interval,
        # A message that waited longer is discarded: the next one is there already, so sweeps never pile up.
        expire_seconds=int(schedule.every.total_seconds()),
        queue=QUEUE,
        description=DESCRIPTION,
    )


def existing_rows() -> models.QuerySet[PeriodicTask]:
    """Return the rows, renamed ones included."""
    return PeriodicTask.objects.filter(task__in=TASKS)


def delete_rows() -> int:
    """Delete the rows before the reaper is uninstalled; return how many."""
    return existing_rows().delete()[0]
