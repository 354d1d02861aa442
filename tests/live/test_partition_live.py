"""Workers that go on working while nobody hears of them: the way to the database is cut, and comes back."""

from pathlib import Path

import pytest
from django.db import connection

from reaper.conf import clock
from reaper.core.reasons import Reason
from reaper.models import LedgerEntry, Sweep
from reaper.workers.registry import load_workers
from tests import processes
from tests.faults.proxy import Proxy
from tests.live.stage import stage_at
from tests.worlds import COMMITTED

pytestmark = [
    pytest.mark.lane,
    pytest.mark.live,
    COMMITTED,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="a worker cannot share SQLite's test database"),
]
NAMES = ("one", "two", "three")


@pytest.fixture
def proxy(transactional_db, tmp_path):
    """The workers' way to the database; the test has its own."""
    of = connection.settings_dict
    if not of["HOST"].startswith("/"):
        pytest.skip("the database has no unix socket")
    name = f".s.PGSQL.{of['PORT'] or 5432}"
    proxy = Proxy(tmp_path / name, Path(of["HOST"]) / name)
    yield proxy
    proxy.close()


@pytest.fixture
def stage(proxy, broker, tmp_path, monkeypatch):
    url = processes.database_url().replace(connection.settings_dict["HOST"], str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(processes, "database_url", lambda: url)
        with stage_at(broker.url, tmp_path) as stage:
            yield stage


@pytest.mark.fault("a partition: all workers are up, and none reaches the database")
def test_while_no_worker_reaches_the_database_nothing_is_taken_from_any(stage, proxy):
    for name in NAMES:
        stage.start(name)
    stage.await_ready(*NAMES)
    for name in NAMES:
        stage.crawl(name)
    stage.await_under_way(*NAMES)
    stage.until(stage.has_witness, "somebody has been reporting for long enough")

    with proxy.cut():
        stage.until(lambda: not alive(), "all are taken for dead")
        stage.go_on(3)
        assert proxy.turned_away > 0, "they have tried"
        held = Sweep.objects.filter(kind="crawl_job", phase="running").latest("pk")
        assert any("3 of 3 workers" in each for each in held.errors), held.errors
    assert (stage.statuses(), stage.reaped()) == (dict.fromkeys(NAMES, "running"), {})

    stage.until(lambda: len(alive()) == len(NAMES), "all are heard of again")
    # Each goes on with a connection that was cut under it, and ends by its own word: the crawl's next write fails.
    stage.let_go(*NAMES)
    stage.until(lambda: set(stage.statuses().values()) == {"failed"}, "all have ended")
    assert {stage.row(name).error_code for name in NAMES}.isdisjoint(Reason)
    assert stage.wrongly_reaped() == set()
    assert not LedgerEntry.objects.exists()


def alive():
    """The workers that live, as far as is known."""
    return [each for each in load_workers("default", clock.now("default")) if each.alive]
