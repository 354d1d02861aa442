"""Fixtures that several folders import; imported from a folder's conftest, they would be missing in that folder."""

from datetime import timedelta

import pytest

from tests.servers import RedisServer


@pytest.fixture(scope="session")
def redis_server():
    server = RedisServer()
    yield server
    server.end()


@pytest.fixture
def broker(redis_server, monkeypatch):
    """An empty Redis that Celery publishes to for this test, whatever the settings name; revokes are listened to."""
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", redis_server.url)
    redis_server.listen()
    yield redis_server
    redis_server.stop_listening()


@pytest.fixture
def limits(settings):
    """The runbook's thresholds, whatever the environment says; returns a function that changes some."""

    def change(**values):
        settings.REAPER = {**settings.REAPER, **values}

    change(
        RUN_TIMEOUT=timedelta(hours=1), QUEUE_TIMEOUT=timedelta(minutes=15), ALERT_AFTER=timedelta(minutes=30), KINDS={}
    )
    return change
