"""The stage of the live tests: the database's clock, the default thresholds, a Redis of each test's own."""

from datetime import timedelta

import pytest

from tests import processes
from tests.live.stage import stage_at


@pytest.fixture(autouse=True)
def _defaults(settings):
    limits = {"RUN_TIMEOUT": timedelta(hours=1), "QUEUE_TIMEOUT": timedelta(minutes=15), "KINDS": {}}
    settings.REAPER = {**settings.REAPER, **limits, "CLOCK": "database", "ALERT_AFTER": timedelta(minutes=30)}


@pytest.fixture
def broker():
    with processes.redis_server() as server:
        yield server


@pytest.fixture
def stage(transactional_db, broker, tmp_path):
    with stage_at(broker.url, tmp_path) as stage:
        yield stage
