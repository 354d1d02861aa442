"""The Celery tasks that Beat schedules. Each handles the kinds one by one; one bad kind does not stop the others."""

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from celery import shared_task
from django.db import router

from reaper.adapters import RunAdapter
from reaper.conf import clock
from reaper.conf import settings as conf
from reaper.core.facts import Phase
from reaper.ledger import retention
from reaper.models import WorkerHeartbeat
from reaper.monitoring.alerts import evaluate_all
from reaper.monitoring.notifications import notify_channels, notify_owners
from reaper.sweeps import parents
from reaper.sweeps.sweep import sweep
from reaper.workers import registry

logger = logging.getLogger(__name__)

INTERVALS: Mapping[str, timedelta] = {
    "reaper.tasks.sweep_running": timedelta(seconds=5),
    "reaper.tasks.sweep_pending": timedelta(seconds=30),
    "reaper.tasks.finalize_parents": timedelta(seconds=60),
    "reaper.tasks.raise_alerts": timedelta(seconds=60),
    "reaper.tasks.send_notifications": timedelta(seconds=30),
    "reaper.tasks.prune_history": timedelta(days=1),
}
"""How often each task is started, by Beat or by `manage.py reaper run`.

By name, because accessing an attribute of a task finalizes Celery's app too early.
"""


def for_each_kind(function: Callable[[RunAdapter], Any]) -> dict[str, Any]:
    """Call a function for every kind; return what it returned, by kind. An exception is logged, and is its result."""
    results = {}
    for kind, adapter in conf.adapters().items():
        try:
            results[kind] = function(adapter)
        except Exception as error:
            logger.exception("%s failed", kind)
            results[kind] = f"{type(error).__name__}: {error}"
    return results


@shared_task
def sweep_running() -> None:
    """Sweep the runs that are running, by their status."""
    for_each_kind(lambda adapter: sweep(adapter, Phase.RUNNING))


@shared_task
def sweep_pending() -> None:
    """Sweep the runs that wait for a worker."""
    for_each_kind(lambda adapter: sweep(adapter, Phase.QUEUED))


@shared_task
def finalize_parents() -> None:
    """Complete the parents whose children have all ended."""
    for_each_kind(parents.finalize_parents)


@shared_task
def raise_alerts() -> None:
    """Open and resolve alerts on long-running and waiting runs, and on sweeps and workers in trouble."""
    evaluate_all(conf.adapters())


@shared_task
def send_notifications() -> None:
    """Send each channel and each run's owner what is pending for them. What fails is tried again next time."""
    notify_channels()
    for_each_kind(notify_owners)


@shared_task
def prune_history() -> None:
    """Delete history that is older than the setting for it, and the heartbeats of workers that are long gone."""
    for using in {adapter.using for adapter in conf.adapters().values()}:
        retention.prune_history(using, clock.now(using), conf.get_settings().history_retention)
    prune_heartbeats()


def prune_heartbeats() -> None:
    """Delete the heartbeats of workers that are long gone and that no running run names."""
    named: set[str] = set()
    for adapter in conf.adapters().values():
        for page in adapter.iter_unfinished(Phase.RUNNING):
            named.update(run.worker for run in page)
    using = router.db_for_write(WorkerHeartbeat)
    registry.prune(using, clock.now(using), named)
