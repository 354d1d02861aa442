"""A worker behind a pooler: the ends of its sessions mean nothing, and only its silence shows that it is dead."""

import signal

import pytest
from django.db import connection

from reaper.conf import clock
from reaper.models import WorkerHeartbeat
from reaper.workers.registry import load_workers
from reaper.workers.timing import DEAD_AFTER
from tests import processes
from tests.factories import COMMITTED, SECOND
from tests.live import pooler
from tests.live.scenario import scenario_on
from tests.processes import wait_until

pytestmark = [
    pytest.mark.lane,
    pytest.mark.live,
    COMMITTED,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="PgBouncer is PostgreSQL's"),
    pytest.mark.skipif(not pooler.is_installed(), reason="PgBouncer is not installed"),
]


@pytest.fixture
def scenario(transactional_db, broker, tmp_path, monkeypatch):
    with pooler.pooler() as url:
        monkeypatch.setattr(processes, "database_url", lambda: url)
        with scenario_on(broker.url, tmp_path) as scenario:
            yield scenario


def test_worker_behind_a_pooler_is_dead_by_silence_only(scenario):
    scenario.start("pooled")
    scenario.await_ready("pooled")
    scenario.crawl("pooled")
    wait_until(lambda: scenario.row("pooled").pages_crawled == 1, what="it is busy")
    sessions = set()

    def has_reported_often():
        (worker,) = load_workers("default", clock.now("default"))
        assert worker.alive
        sessions.update(sessions_of_the_worker())
        return worker.seen_at - worker.since > 9 * SECOND

    wait_until(has_reported_often, what="it reports on and on")
    assert WorkerHeartbeat.objects.get().backend_pid is None, "no session is its own"
    assert len(sessions) > 1, "its sessions came and went"

    scenario.signal("pooled", signal.SIGKILL, group=True)
    wait_until(lambda: scenario.has_ended("pooled"), what="it has ended")
    seen_at = WorkerHeartbeat.objects.get().seen_at
    assert load_workers("default", seen_at + DEAD_AFTER)[0].alive
    assert not load_workers("default", seen_at + DEAD_AFTER + SECOND)[0].alive


def sessions_of_the_worker():
    """The sessions of the test database besides the test's own."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return {pid for (pid,) in cursor.fetchall()}
