"""Fixtures of the example host's tests: a Redis that Celery publishes to, and its faults."""

import pytest

from tests.processes import broker_at, free_port, redis_server


@pytest.fixture(scope="module")
def server():
    with redis_server() as server, broker_at(server.url):
        yield server


@pytest.fixture
def broker(server):
    """A broker without messages, which is Celery's broker."""
    server.flush()
    return server


@pytest.fixture
def refusing_broker(broker):
    """Nobody listens there."""
    with broker_at(f"redis://127.0.0.1:{free_port()}/0"):
        yield


@pytest.fixture
def hanging_broker(broker):
    """It takes every connection and answers nothing."""
    with broker_at(broker.url, socket_timeout=0.3, socket_connect_timeout=0.3), broker.stopped():
        yield
