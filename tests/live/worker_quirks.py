"""What may be unusual about a worker: its clock, its release, its pace. Each function changes its own process."""

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from celery import Task, current_app, current_task
from celery.signals import worker_init, worker_ready, worker_shutdown, worker_shutting_down
from celery.worker import request
from django.utils import timezone

from apps.sources import claims, crawler, tasks
from reaper.workers import heartbeat, heartbeat_report

HOUR = timedelta(hours=1)
# What a host's clock drifts by in some weeks without a time server.
DRIFT = timedelta(seconds=288)


def ahead() -> None:
    """The host's clock is an hour fast."""
    shift_clock(HOUR)


def fast() -> None:
    """The host's clock has drifted ahead."""
    shift_clock(DRIFT)


def slow() -> None:
    """The host's clock has drifted behind."""
    shift_clock(-DRIFT)


def behind() -> None:
    """The host's clock is an hour slow."""
    shift_clock(-HOUR)


def shift_clock(by: timedelta) -> None:
    """Shift the clocks that stamp runs, heartbeats and requests."""
    utc_now, seconds = timezone.now, request.time

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + by

    timezone.now = lambda: utc_now() + by
    heartbeat_report.datetime = Shifted
    request.time = lambda: seconds() + by.total_seconds()


def without_heartbeat() -> None:
    """Its release did not have the reaper yet: it sends no heartbeat, and its runs name no incarnation."""
    worker_init.disconnect(heartbeat.on_init)
    worker_ready.disconnect(heartbeat.on_ready)
    worker_shutting_down.disconnect(heartbeat.on_shutting_down)
    worker_shutdown.disconnect(heartbeat.on_shutdown)


def cpu_bound() -> None:
    """Its crawls use the CPU without a pause, until the journal's folder has a file of their site's name."""

    def crawl(url: str, _limits: Any) -> Iterator[crawler.Totals]:
        os.nice(10)
        yield crawler.Totals(pages=1)
        gate = Path(os.environ["CRAWL_JOURNAL"]).parent / url.strip("/").rpartition("/")[2]
        while not gate.exists():
            sum(range(50_000))

    crawler.crawl = crawl


def redelivering() -> None:
    """It acknowledges late, on a broker that redelivers its messages after 2 s."""
    current_app.conf.task_acks_late = True
    often = {"unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    current_app.conf.broker_transport_options = {"visibility_timeout": 2, **often}
    for task in current_app.tasks.values():
        task.acks_late = True


def retrying() -> None:
    """Its tasks retry as Celery's do: the id stays, the row stays `running`, and the message waits in queue `later`."""
    tasks.CrawlTask.apply_async = Task.apply_async
    claims.Claim.release = lambda claim, retries: current_task.retry(countdown=0, queue="later")
