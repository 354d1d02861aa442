"""A Celery project on the tests' broker."""

import pytest

from tests.reaper.broker.messages import celery_app


@pytest.fixture
def app(broker, monkeypatch):
    monkeypatch.delenv("CELERY_BROKER_WRITE_URL")
    return celery_app(broker.url)
