"""The heartbeat thread's own database connection."""

from django.db import connections

from reaper.workers.heartbeat_connection import own_connection


def test_own_connection_keeps_no_query_log(settings):
    settings.DEBUG = True
    queries = own_connection("default").queries_log
    queries.append("a query")
    assert not queries


def test_own_connection_uses_no_pool():
    wrapper = own_connection("default")
    connections.databases["default"]["OPTIONS"]["pool"] = True
    try:
        assert "pool" not in own_connection("default").settings_dict["OPTIONS"]
    finally:
        del connections.databases["default"]["OPTIONS"]["pool"]
    assert wrapper.settings_dict is not connections.databases["default"]
