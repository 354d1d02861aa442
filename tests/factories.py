"""Test data: sources, runs and parents in the state that a test is about."""

import threading
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.db import connections

from apps.sources.models import CrawlJob, CrawlJobSourceResult, Source
from reaper.conf import settings as conf
from reaper.models import MessageSighting, Sweep, WorkerHeartbeat
from reaper.reports.health import sweep_scopes

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
# For what happens at a commit, or in several connections. Two apps only: five times faster to clean up.
COMMITTED = pytest.mark.django_db(transaction=True, available_apps=["apps.sources", "reaper"])


def source(**fields):
    return Source.objects.create(name="example", url="http://example.com/", **fields)


def queued_job(ago=timedelta(0), **fields):
    """A job that was dispatched `ago` and waits for a worker."""
    stamps = {"created_at": NOW - ago, "queued_at": NOW - ago, "task_id": str(uuid4())}
    return CrawlJob.objects.create(**{"source": fields.pop("source", None) or source(), **stamps, **fields})


def running_job(ago=timedelta(0), **fields):
    """A job that was claimed `ago`."""
    return queued_job(ago, **{"status": "running", "started_at": NOW - ago, "worker": "celery@w1/abc", **fields})


def parent(*statuses, **fields):
    """A running multi-source job with one child per status; running ones started now, pending ones were sent now."""
    fields = {"status": "running", "started_at": NOW, "created_at": NOW, **fields}
    job = CrawlJob.objects.create(is_multi_source=True, **fields)
    for status in statuses:
        child(job, status)
    return job


def child(job, status, **fields):
    """One child of a parent."""
    stamps = {"created_at": NOW, "queued_at": NOW, "task_id": str(uuid4())}
    if status == "running":
        stamps["started_at"] = NOW
    return CrawlJobSourceResult.objects.create(
        crawl_job=job, source=fields.pop("source", None) or source(), status=status, **{**stamps, **fields}
    )


def fresh(row):
    """Return the row as it is now in the database."""
    return type(row).objects.get(pk=row.pk)


def sent_child(job=None, **fields):
    """One pending child, of a pending parent of its own unless one is given."""
    return child(job or parent(status="pending", started_at=None), "pending", **fields)


def swept(at=NOW):
    """Record finished sweeps of every kind and phase that found nothing to do."""
    for adapter in conf.adapters().values():
        for phase in sweep_scopes(adapter):
            times = {"started_at": at, "finished_at": at}
            Sweep.objects.update_or_create(kind=adapter.kind, phase=phase, idle=True, defaults=times)


def run_concurrently(*calls):
    """Make the calls at the same moment, each in a thread with a connection of its own; raise what one raised."""
    begin, failed = threading.Barrier(len(calls)), []

    def body(call):
        try:
            begin.wait(10)
            call()
        except Exception as error:
            failed.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=body, args=[call]) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


# --- workers and messages -----------------------------------------------------------------------------------------


def report(name="celery@w1/abc", now=NOW, silent=timedelta(0), **fields):
    """The heartbeat that the worker "hostname/incarnation" sent `silent` ago, after an hour of reporting."""
    hostname, _, incarnation = name.partition("/")
    seen = now - silent
    values = {"seen_at": seen, "listed_at": seen, "since": seen - HOUR, "queues": ["crawl"], **fields}
    return WorkerHeartbeat.objects.update_or_create(hostname=hostname, incarnation=incarnation, defaults=values)[0]


def witness(queue="crawl", now=NOW):
    """A live worker of the queue that has reported without a gap for an hour, and has nothing."""
    return report(f"celery@{queue}-witness/abc", now, queues=[queue])


def keep_reporting(now):
    """Move the heartbeats of all live workers to now."""
    WorkerHeartbeat.objects.exclude(hostname="celery@dead").update(seen_at=now, listed_at=now)


def executing(*rows, name="celery@w1/abc", now=NOW, since=MINUTE, **fields):
    """A live worker that reports these runs' tasks as executing since then."""
    active = {row.task_id: (now - since).timestamp() for row in rows}
    return report(name, now, active=active, **fields)


def held_job(ago=timedelta(0), now=NOW, **fields):
    """A job that was claimed `ago`, and that its worker reports as executing, with all the others of that worker."""
    job = running_job(ago, **fields)
    others = CrawlJob.objects.filter(worker=job.worker, status="running")
    executing(*others, name=job.worker, now=now)
    return job


def orphan(ago=MINUTE, **fields):
    """A job that was claimed `ago` by a worker that has been silent since; a live worker gives evidence of that."""
    job = running_job(ago, **{"worker": "celery@dead/abc", **fields})
    report(job.worker, silent=ago, active={job.task_id: (NOW - ago).timestamp()})
    witness()
    return job


def lost_job(ago=MINUTE, now=NOW, **fields):
    """A job that was dispatched `ago`, and whose message was in no queue at an earlier sweep."""
    job = queued_job(ago, **fields)
    earlier_sighting(job, now)
    witness(now=now)
    return job


def earlier_sighting(row, now=NOW, presence="absent", ago=10 * SECOND):
    """The sighting of the run's message by an earlier sweep."""
    adapter = next(each for each in conf.adapters().values() if each.model == row._meta.label)
    run = adapter.get(str(row.pk))
    found = {"task_id": run.task_id or "", "message_location": presence, "seen_at": now - ago}
    return MessageSighting.objects.update_or_create(kind=adapter.kind, run_id=run.pk, defaults=found)[0]
