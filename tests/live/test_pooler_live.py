"""A worker whose sessions are a pooler's: their ends say nothing of it, and it is known by its silence only."""

import signal

import pytest
from django.db import connection

from reaper.conf import clock
from reaper.models import WorkerHeartbeat
from reaper.workers.registry import load_workers
from reaper.workers.timing import DEAD_AFTER
from tests import processes
from tests.live import pooler
from tests.live.stage import stage_at
from tests.processes import wait_until
from tests.worlds import COMMITTED, SECOND

pytestmark = [
    pytest.mark.lane,
    pytest.mark.live,
    COMMITTED,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="PgBouncer is PostgreSQL's"),
    pytest.mark.skipif(not pooler.is_installed(), reason="PgBouncer is not installed"),
]


@pytest.fixture
def stage(transactional_db, broker, tmp_path, monkeypatch):
    with pooler.pooler() as url:
        monkeypatch.setattr(processes, "database_url", lambda: url)
        with stage_at(broker.url, tmp_path) as stage:
            yield stage


def test_behind_a_pooler_a_worker_lives_as_long_as_it_reports_and_is_dead_by_its_silence(stage):
    stage.start("pooled")
    stage.await_ready("pooled")
    stage.crawl("pooled")
    wait_until(lambda: stage.row("pooled").pages_crawled == 1, what="it is busy")
    sessions = set()

    def has_reported_often():
        (worker,) = load_workers("default", clock.now("default"))
        assert worker.alive
        sessions.update(sessions_of_the_worker())
        return worker.seen_at - worker.since > 9 * SECOND

    wait_until(has_reported_often, what="it reports on and on")
    assert WorkerHeartbeat.objects.get().backend_pid is None, "no session is its own"
    assert len(sessions) > 1, "its sessions came and went"

    stage.signal("pooled", signal.SIGKILL, group=True)
    wait_until(lambda: stage.has_ended("pooled"), what="it has ended")
    seen_at = WorkerHeartbeat.objects.get().seen_at
    assert [load_workers("default", seen_at + each)[0].alive for each in (DEAD_AFTER, DEAD_AFTER + SECOND)] == [
        True,
        False,
    ]


def sessions_of_the_worker():
    """The sessions of the test database besides the test's own."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return {pid for (pid,) in cursor.fetchall()}
