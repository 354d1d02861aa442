"""Workers that go on working while no heartbeat arrives: the way to the database is cut, and comes back."""

from pathlib import Path

import pytest
from django.db import connection

from reaper.conf import clock
from reaper.core.reasons import Reason
from reaper.models import LedgerEntry, Sweep
from reaper.workers.registry import load_workers
from tests import processes
from tests.factories import COMMITTED
from tests.faults.proxy import Proxy
from tests.live.scenario import scenario_on

pytestmark = [
    pytest.mark.lane,
    pytest.mark.live,
    COMMITTED,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="a worker cannot share SQLite's test database"),
]
NAMES = ("one", "two", "three")


@pytest.fixture
def proxy(transactional_db, tmp_path):
    """The workers' way to the database; the test itself connects directly."""
    of = connection.settings_dict
    if not of["HOST"].startswith("/"):
        pytest.skip("the database has no unix socket")
    name = f".s.PGSQL.{of['PORT'] or 5432}"
    proxy = Proxy(tmp_path / name, Path(of["HOST"]) / name)
    yield proxy
    proxy.close()


@pytest.fixture
def scenario(proxy, broker, tmp_path, monkeypatch):
    url = processes.database_url().replace(connection.settings_dict["HOST"], str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(processes, "database_url", lambda: url)
        with scenario_on(broker.url, tmp_path) as scenario:
            yield scenario


@pytest.mark.fault("a partition: all workers are up, and none reaches the database")
def test_workers_cut_off_from_the_database_keep_their_runs(scenario, proxy):
    for name in NAMES:
        scenario.start(name)
    scenario.await_ready(*NAMES)
    for name in NAMES:
        scenario.crawl(name)
    scenario.await_under_way(*NAMES)
    scenario.until(scenario.has_witness, "a worker is a witness")

    with proxy.cut():
        scenario.until(lambda: not alive(), "all count as dead")
        scenario.run_for(3)
        assert proxy.refused > 0, "they have tried"
        held = Sweep.objects.filter(kind="crawl_job", phase="running").latest("pk")
        assert any("3 of 3 workers" in each for each in held.error_messages), held.error_messages
    assert scenario.statuses() == dict.fromkeys(NAMES, "running")
    assert scenario.recovered() == {}

    scenario.until(lambda: len(alive()) == len(NAMES), "all report again")
    # Each goes on with a connection that was cut, so that the crawl's next write fails and ends the run.
    scenario.release(*NAMES)
    scenario.until(lambda: set(scenario.statuses().values()) == {"failed"}, "all have ended")
    assert {scenario.row(name).error_code for name in NAMES}.isdisjoint(Reason)
    assert scenario.wrongly_recovered() == set()
    assert not LedgerEntry.objects.exists()


def alive():
    """The workers that count as alive."""
    return [each for each in load_workers("default", clock.now("default")) if each.alive]
