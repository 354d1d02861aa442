"""Fixtures of the reaper's tests: a broker of their own, and the silly plug-in."""

from datetime import timedelta

import pytest
from django.db import connection

from tests import rabbit as rabbits
from tests.plugin.models import Parcel
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
    redis_server.deafen()


@pytest.fixture
def refusing_broker(monkeypatch, tmp_path):
    """No broker listens where Celery publishes to."""
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", f"redis+socket://{tmp_path}/nobody.sock")


@pytest.fixture
def hanging_broker(monkeypatch):
    """A broker of which every connection is accepted and nothing is answered; `go_on()` wakes it up."""
    server = RedisServer()
    server.listen()
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", server.url)
    server.stop()
    yield server
    server.go_on()
    server.deafen()
    server.end()


@pytest.fixture(scope="session")
def rabbit():
    """A RabbitMQ; mark its tests `on_rabbit`, so that one worker of the test run has them all and starts only one."""
    if not rabbits.is_installed():
        pytest.skip("RabbitMQ is not installed")
    with rabbits.rabbit_server() as server:
        yield server


@pytest.fixture
def limits(settings):
    """The runbook's thresholds, whatever the environment says; returns a function that changes some."""

    def change(**values):
        settings.REAPER = {**settings.REAPER, **values}

    change(
        RUN_TIMEOUT=timedelta(hours=1), QUEUE_TIMEOUT=timedelta(minutes=15), ALERT_AFTER=timedelta(minutes=30), KINDS={}
    )
    return change


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
