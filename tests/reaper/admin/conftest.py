"""Fixtures of the admin's tests."""

import pytest


@pytest.fixture
def ada(client, django_user_model):
    """A client of somebody who may do everything."""
    client.force_login(django_user_model.objects.create_superuser("ada"))
    return client


@pytest.fixture
def schedules(db):
    """The schedules as migrate makes them: a test that commits has emptied the tables."""
    from reaper.schedules import create_missing

    create_missing("default")
