"""Tables of any size, filled by the database itself: jobs that ended over a year, with stuck ones all over them."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from django.db import connection

from apps.sources.models import CrawlJob, Source
from reaper.conf import clock
from reaper.conf import settings as conf
from reaper.controls.modes import set_controls
from reaper.models import LedgerEntry, MessageSighting, RefusedWrite, Sweep, WorkerHeartbeat

DEAD = "celery@dead/abc"
# Multi-source jobs per ten thousand, and the children of each.
PARENTS, CHILDREN = 100, 3

JOBS = """
INSERT INTO crawl_jobs (id, source_id, is_multi_source, status, triggered_by, config_overrides, created_at, queued_at,
    started_at, heartbeat_at, completed_at, finalized_at, task_id, worker, pages_crawled, total_found, new_articles,
    duplicates, errors, error_message, error_code)
SELECT gen_random_uuid(), %(source)s::uuid, %(source)s::uuid IS NULL,
    CASE WHEN number %% 20 = 0 THEN 'failed' ELSE 'completed' END, 'schedule', '{}', at, at, at,
    at + interval '50 s', at + interval '1 min', CASE WHEN %(source)s::uuid IS NULL THEN at END,
    CASE WHEN %(source)s::uuid IS NULL THEN '' ELSE gen_random_uuid()::text END,
    'celery@w1/abc', 40, 40, 30, 10, 0, '', ''
FROM (SELECT number, now() - interval '1 h' - number * (interval '365 days' / %(rows)s) AS at
    FROM generate_series(1, %(rows)s) number) stamps
"""
RESULTS = """
INSERT INTO crawl_job_source_results (id, crawl_job_id, source_id, status, created_at, queued_at, started_at,
    heartbeat_at, completed_at, task_id, worker, articles_found, articles_new, articles_duplicate, pages_crawled,
    errors_count, error_message, error_code)
SELECT gen_random_uuid(), jobs.id, sources.id, 'completed', jobs.created_at, jobs.created_at, jobs.created_at,
    jobs.created_at, jobs.created_at, gen_random_uuid()::text, 'celery@w1/abc', 10, 10, 0, 10, 0, '', ''
FROM crawl_jobs jobs, sources WHERE jobs.source_id IS NULL
"""
# By their random keys, so that they lie all over the table.
STICK = """
UPDATE crawl_jobs SET status = 'running', completed_at = NULL, worker = %s, task_id = gen_random_uuid()::text,
    started_at = clock_timestamp() - interval '10 min', heartbeat_at = clock_timestamp() - interval '5 min',
    error_message = '', error_code = ''
WHERE id IN (SELECT id FROM crawl_jobs WHERE source_id IS NOT NULL AND id > %s ORDER BY id LIMIT %s)
"""
BARE = """
UPDATE crawl_jobs SET status = 'failed', completed_at = now(), error_code = 'orphaned',
    error_message = 'Its worker died.'
WHERE status = 'running'
"""

# PostgreSQL makes a checkpoint by itself after this much WAL or time.
ROOM = {"max_wal_size": "16GB", "checkpoint_timeout": "1h"}


def run(sql: str, *values: object) -> int:
    """Execute one statement and return how many rows it touched."""
    with connection.cursor() as cursor:
        cursor.execute(sql, values or None)
        return cursor.rowcount


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Keep the server from making checkpoints except in `settle()`, between measurements. Needs a superuser."""
    for name, value in ROOM.items():
        run(f"ALTER SYSTEM SET {name} = '{value}'")
    run("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        for name in ROOM:
            run(f"ALTER SYSTEM RESET {name}")
        run("SELECT pg_reload_conf()")


def fill(rows: int) -> None:
    """Make the tables hold so many jobs, all ended."""
    run("TRUNCATE crawl_jobs, crawl_job_source_results, sources CASCADE")
    sources = [Source.objects.create(name=f"source {number}", url="http://site/").pk for number in range(CHILDREN)]
    for source, count in ((sources[0], rows), (None, max(1, rows * PARENTS // 10_000))):
        with connection.cursor() as cursor:
            cursor.execute(JOBS, {"source": source, "rows": count})
    run(RESULTS)
    settle()


def stick(rows: int, worker: str = DEAD) -> None:
    """Set this many jobs running at a worker, by default a dead one, and none else; delete the reaper's records."""
    run("UPDATE crawl_jobs SET status = 'completed', completed_at = now() WHERE status = 'running'")
    for model in (LedgerEntry, Sweep, MessageSighting, RefusedWrite):
        run(f"TRUNCATE {model._meta.db_table} CASCADE")
    run(STICK, worker, str(uuid.UUID(int=0)), rows)
    hostname, _, incarnation = DEAD.partition("/")
    long_ago = CrawlJob._meta.get_field("created_at").get_default() - timedelta(minutes=5)
    fields = {"seen_at": long_ago, "listed_at": long_ago, "since": long_ago, "queues": ["crawl"], "complete": True}
    WorkerHeartbeat.objects.update_or_create(hostname=hostname, incarnation=incarnation, defaults=fields)
    settle()


def release() -> None:
    """Lift the brake: here most of the runs are stuck on purpose."""
    adapter = conf.adapters()["crawl_job"]
    now = clock.now(adapter.using)
    set_controls(adapter, "bench", now, released_until=now + timedelta(days=1))


def settle() -> None:
    """Do the maintenance now that the server would do during a measurement."""
    run("VACUUM (ANALYZE) crawl_jobs")
    run("VACUUM (ANALYZE) crawl_job_source_results")
    run("CHECKPOINT")
