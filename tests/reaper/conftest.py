"""Fixtures of the reaper's tests: a broker of their own, a worker's consumer, and the silly plug-in."""

from types import SimpleNamespace

import pytest
from celery import bootsteps
from celery.worker import state
from django.db import connection

from tests import rabbit as rabbits
from tests.fixtures import broker, limits, redis_server
from tests.plugin.models import Parcel
from tests.servers import RedisServer

__all__ = ["broker", "limits", "redis_server"]


@pytest.fixture
def refusing_broker(monkeypatch, tmp_path):
    """No broker listens where Celery publishes to."""
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", f"redis+socket://{tmp_path}/nobody.sock")


@pytest.fixture
def hanging_broker(monkeypatch):
    """A broker of which every connection is accepted and nothing is answered; `resume()` lets it go on."""
    server = RedisServer()
    server.listen()
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", server.url)
    server.stop()
    yield server
    server.resume()
    server.stop_listening()
    server.end()


@pytest.fixture(scope="session")
def rabbit():
    """A RabbitMQ; mark its tests `on_rabbit`, so that one worker of the test run has them all and starts only one."""
    if not rabbits.is_installed():
        pytest.skip("RabbitMQ is not installed")
    with rabbits.rabbit_server() as server:
        yield server


@pytest.fixture
def consumer():
    """A worker's consumer that holds nothing, in a process whose Celery state is empty."""
    queues = SimpleNamespace(consume_from={"mail": None, "crawl": None})
    yield SimpleNamespace(
        app=SimpleNamespace(amqp=SimpleNamespace(queues=queues)),
        controller=SimpleNamespace(blueprint=SimpleNamespace(state=bootsteps.RUN)),
        task_buckets={},
        timer=SimpleNamespace(queue=[]),
    )
    state.reset_state()
    state.should_stop = state.should_terminate = None


@pytest.fixture(scope="session")
def _parcels_table(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), connection.schema_editor() as editor:
        if Parcel._meta.db_table in connection.introspection.table_names():
            editor.delete_model(Parcel)
        editor.create_model(Parcel)


@pytest.fixture
def parcels(_parcels_table, db, settings):
    """The silly plug-in is installed and its parcels are swept."""
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "tests.plugin"]
    settings.REAPER = {**settings.REAPER, "ADAPTERS": [*settings.REAPER["ADAPTERS"], "tests.plugin.adapter.Parcels"]}
    yield Parcel.objects
    Parcel.objects.all().delete()
