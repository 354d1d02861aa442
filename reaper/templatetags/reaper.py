"""Tags and filters of the admin's templates: the status, the charts, and how values are formatted."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django import template
from django.apps import apps
from django.utils import timezone

from reaper.conf import settings as conf
from reaper.core.formatting import format_ago, format_duration, one_line
from reaper.core.reasons import find_reason
from reaper.models import Sweep
from reaper.reports import charts
from reaper.reports.activity import DAY, TimeBucket, recent_sweeps, recovery_times, time_buckets
from reaper.reports.status import Depth, Status, build_status, state_of_worker
from reaper.workers.registry import Worker

register = template.Library()


class Scheduled(NamedTuple):
    """One schedule as the page shows it."""

    pk: int
    name: str
    task: str
    """The full name of the task that it starts."""
    enabled: bool
    every: str
    """Its interval in words: "every 5 s"."""
    last: datetime | None
    """When Beat last started it; None when it never did."""
    due: datetime | None
    """When Beat starts it next; None when that is not known, or when it is disabled."""
    overdue: timedelta | None
    """How long ago it was due, if that is more than two intervals; None otherwise."""


@register.simple_tag
def reaper_status() -> Status:
    """Return the status that the dashboard shows."""
    return build_status(conf.adapters(), Depth.OVERVIEW)


@register.simple_tag
def reaper_hours(status: Status) -> Sequence[TimeBucket]:
    """Return what was done in each of the last 24 hours."""
    return time_buckets(databases(), status.now, timedelta(hours=1), 24)


@register.simple_tag
def reaper_days(status: Status) -> Sequence[TimeBucket]:
    """Return what was done on each of the last 30 days."""
    return time_buckets(databases(), status.now, DAY, 30)


@register.simple_tag
def reaper_recent_sweeps() -> Sequence[Sweep]:
    """Return the newest sweeps that acted, failed or were held."""
    return recent_sweeps(databases())


def databases() -> list[str]:
    """Return the aliases of the databases that hold runs."""
    return list(dict.fromkeys(adapter.using for adapter in conf.adapters().values()))


@register.simple_tag
def reaper_schedules() -> Sequence[Scheduled]:
    """Return the reaper's schedules."""
    if not apps.is_installed("django_celery_beat"):
        return []
    from reaper import schedules  # whose models exist only then

    rows = schedules.existing_rows().select_related("interval", "crontab", "solar", "clocked").order_by("name")
    return [scheduled(row, timezone.now()) for row in rows]


def scheduled(row: Any, now: datetime) -> Scheduled:
    """Return one row of django-celery-beat as it is shown."""
    every = row.interval.schedule.run_every if row.interval else None
    due = row.last_run_at + every if row.enabled and every and row.last_run_at else None
    late = now - due if due and every and now - due > 2 * every else None
    text = f"every {format_duration(every)}" if every else str(row.scheduler)
    return Scheduled(row.pk, row.name, row.task, row.enabled, text, row.last_run_at, due, late)


@register.simple_tag
def acted_chart(bars: Sequence[TimeBucket]) -> charts.Chart:
    """Return the chart of what was done."""
    return charts.actions_chart(bars)


@register.simple_tag
def reaper_recovery_rows(status: Status) -> Sequence[charts.RecoveryRow]:
    """Return how long recoveries took within the last 24 hours, by family of reasons."""
    return charts.recovery_rows(recovery_times(databases(), status.now - DAY))


@register.simple_tag
def reaper_recovery_scale() -> Sequence[charts.Mark]:
    """Return the marks of the scale of recovery times."""
    return [charts.scale_mark(each) for each in charts.MARKS]


@register.filter(name="duration")
def duration_of(value: timedelta | None) -> str:
    """Return a duration in words; '' for none."""
    return "" if value is None else format_duration(value)


@register.filter
def ago(moment: datetime | None, now: datetime) -> str:
    """Return how long before `now` a moment was; '-' for none."""
    return "-" if moment is None else format_ago(moment, now)


@register.filter
def worker_state(worker: Worker) -> str:
    """Return the state of a worker as a word or two."""
    return state_of_worker(worker).replace("_", " ")


@register.filter
def sentence(reason: str) -> str:
    """Return a reason's sentence; '' for a code that this version does not know."""
    known = find_reason(reason)
    return known.sentence if known else ""


@register.filter
def names(values: Iterable[str]) -> str:
    """Return names that came from elsewhere as one line, sorted."""
    return one_line(", ".join(sorted(map(str, values))))


@register.filter(name="one_line")
def one_line_of(text: Any) -> str:
    """Return what came from elsewhere as one line."""
    return one_line(text)
