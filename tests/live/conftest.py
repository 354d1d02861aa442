"""Settings of the live tests: the database's clock, the default thresholds, a new Redis for each test."""

from datetime import timedelta

import pytest

from tests import processes
from tests.live.scenario import scenario_on


@pytest.fixture(autouse=True)
def _defaults(settings):
    limits = {"RUN_TIMEOUT": timedelta(hours=1), "QUEUE_TIMEOUT": timedelta(minutes=15), "KINDS": {}}
    settings.REAPER = {**settings.REAPER, **limits, "CLOCK": "database", "ALERT_AFTER": timedelta(minutes=30)}


@pytest.fixture
def broker():
    with processes.redis_server() as server:
        yield server


@pytest.fixture
def scenario(transactional_db, broker, tmp_path):
    with scenario_on(broker.url, tmp_path) as scenario:
        yield scenario
