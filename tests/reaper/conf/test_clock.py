"""Whose time counts."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, connections
from freezegun import freeze_time

from reaper.conf import clock
from reaper.conf import settings as conf
from tests.factories import NOW

pytestmark = pytest.mark.django_db


@pytest.fixture
def databases_clock(settings):
    settings.REAPER = {name: value for name, value in settings.REAPER.items() if name != "CLOCK"}


def test_clock_defaults_to_database(databases_clock):
    assert conf.get_settings().clock == "database"


@pytest.mark.skipif(connection.vendor != "postgresql", reason="only PostgreSQL is asked for its time")
def test_now_on_postgresql_is_database_time(databases_clock):
    with freeze_time(NOW):
        moment = clock.now("default")
    assert moment.utcoffset() is not None
    assert abs(moment - NOW) > timedelta(days=1)
    assert abs(moment - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.skipif(connection.vendor != "postgresql", reason="only PostgreSQL is asked for its time")
def test_now_advances_inside_a_transaction(databases_clock):
    first, second = clock.now("default"), clock.now("default")
    assert second > first


def test_now_with_host_clock_makes_no_query(settings, django_assert_num_queries):
    settings.REAPER = {**settings.REAPER, "CLOCK": "host"}
    with freeze_time(NOW), django_assert_num_queries(0):
        assert clock.now("default") == NOW


def test_now_on_other_databases_is_host_time(databases_clock, monkeypatch, django_assert_num_queries):
    monkeypatch.setattr(connections["default"], "vendor", "another")
    with freeze_time(NOW), django_assert_num_queries(0):
        assert clock.now("default") == NOW
