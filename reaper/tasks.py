"""The Celery tasks that Beat schedules. Each does its kinds one by one; one bad kind does not stop the others."""

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

from celery import shared_task
from django.db import router
from django.db.models import QuerySet

from reaper.adapters import RunAdapter
from reaper.conf import clock
from reaper.conf import settings as conf
from reaper.core.facts import Phase
from reaper.ledger import totals
from reaper.models import (
    Alert,
    Exemption,
    LedgerEntry,
    MessageSighting,
    Observation,
    RefusedWrite,
    Sweep,
    WorkerHeartbeat,
)
from reaper.monitoring.alerts import evaluate_all
from reaper.monitoring.notifications import notify_channels, notify_owners
from reaper.sweeps import sweep as sweeps
from reaper.workers import registry

logger = logging.getLogger(__name__)

# How often each is started, by Beat or by `manage.py reaper run`. By name: a task that is asked for anything too early
# completes Celery's app too early.
INTERVALS: Mapping[str, timedelta] = {
    "reaper.tasks.sweep_running": timedelta(seconds=5),
    "reaper.tasks.sweep_pending": timedelta(seconds=30),
    "reaper.tasks.finalize_parents": timedelta(seconds=60),
    "reaper.tasks.raise_alerts": timedelta(seconds=60),
    "reaper.tasks.send_notifications": timedelta(seconds=30),
    "reaper.tasks.prune_history": timedelta(days=1),
}
# Rows deleted in one statement.
PRUNE_BATCH = 5000


def for_each_kind(do: Callable[[RunAdapter], Any]) -> dict[str, Any]:
    """Do something for every kind; return what it returned, by kind. An exception is logged as that kind's answer."""
    answers = {}
    for kind, adapter in conf.adapters().items():
        try:
            answers[kind] = do(adapter)
        except Exception as error:
            logger.exception("%s failed", kind)
            answers[kind] = f"{type(error).__name__}: {error}"
    return answers


@shared_task
def sweep_running() -> None:
    """Sweep the runs that say that they are running."""
    for_each_kind(lambda adapter: sweeps.sweep(adapter, Phase.RUNNING))


@shared_task
def sweep_pending() -> None:
    """Sweep the runs that wait for a worker."""
    for_each_kind(lambda adapter: sweeps.sweep(adapter, Phase.QUEUED))


@shared_task
def finalize_parents() -> None:
    """Finalize the parents whose children have all ended."""
    for_each_kind(sweeps.finalize_parents)


@shared_task
def raise_alerts() -> None:
    """Warn of runs that are running or waiting for long, and of sweeps and workers that are not as they should be."""
    evaluate_all(conf.adapters())


@shared_task
def send_notifications() -> None:
    """Tell each channel and each run's owner what they have not been told yet. What fails is tried again next time."""
    notify_channels()
    for_each_kind(notify_owners)


@shared_task
def prune_history() -> None:
    """Delete history that is older than `HISTORY_RETENTION`. The last good sweep of each kind is kept."""
    for using in {adapter.using for adapter in conf.adapters().values()}:
        horizon = clock.now(using) - conf.get_settings().history_retention
        for counted in (LedgerEntry, RefusedWrite):
            while totals.prune(counted.objects.using(using).filter(created_at__lt=horizon), PRUNE_BATCH):
                pass
        prune(Observation.objects.using(using).filter(created_at__lt=horizon))
        prune(Exemption.objects.using(using).filter(until__lt=horizon))
        prune(Alert.objects.using(using).filter(resolved_at__lt=horizon))
        # A look that was never followed by another is of a run that has gone its way.
        prune(MessageSighting.objects.using(using).filter(created_at__lt=clock.now(using) - registry.REPORT_RETENTION))
        prune(Sweep.objects.using(using).filter(started_at__lt=horizon).exclude(pk__in=last_good_sweeps(using)))
    prune_reports()


def prune_reports() -> None:
    """Delete the reports of workers that are long gone and that no running run names."""
    named: set[str] = set()
    for adapter in conf.adapters().values():
        for page in adapter.iter_unfinished(Phase.RUNNING):
            named.update(run.worker for run in page)
    using = router.db_for_write(WorkerHeartbeat)
    registry.prune(using, clock.now(using), named)


def prune(rows: QuerySet) -> None:
    """Delete the rows, a batch at a time, so that no statement holds its locks for long."""
    while pks := list(rows.order_by("pk").values_list("pk", flat=True)[:PRUNE_BATCH]):
        rows.model._base_manager.using(rows.db).filter(pk__in=pks).delete()


def last_good_sweeps(using: str) -> Iterable[int]:
    """Return the keys of the newest finished sweep without errors, per kind and phase."""
    good = Sweep.objects.using(using).filter(errors=[], finished_at__isnull=False).order_by("started_at")
    return {(kind, phase): pk for kind, phase, pk in good.values_list("kind", "phase", "pk")}.values()
