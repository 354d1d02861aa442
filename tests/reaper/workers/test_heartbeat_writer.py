"""A worker's row: how it is written, and over which connection."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
from celery.worker import state
from django.db import connection, connections
from django.db.models import F

from reaper.models import WorkerHeartbeat
from reaper.workers.heartbeat_connection import BackendSession, backend_session
from reaper.workers.heartbeat_report import ReportCollector
from reaper.workers.heartbeat_writer import HeartbeatWriter
from reaper.workers.identity import WorkerIdentity
from reaper.workers.trouble_log import TroubleLog
from tests.factories import COMMITTED
from tests.processes import in_a_thread
from tests.reaper.requests import Task


class Reporter:
    """Writes reports of the worker celery@w1/abc; to be called in a thread of its own."""

    def __init__(self, consumer):
        self.writer = HeartbeatWriter(WorkerIdentity("celery@w1", "abc"))
        self.collector = ReportCollector(consumer, TroubleLog())

    def report(self, *, last=False):
        self.writer.write(self.collector.collect, last=last)


@pytest.fixture
def reporter(consumer):
    return Reporter(consumer)


shared = pytest.mark.skipif(
    connection.vendor == "sqlite", reason="SQLite's test database is in one connection's memory"
)


def reported():
    return WorkerHeartbeat.objects.values().get()


@shared
@COMMITTED
def test_worker_rewrites_its_one_row(reporter):
    def twice():
        reporter.report()
        first = reported()
        reporter.report()
        return first, reported()

    first, second = in_a_thread(twice)
    assert second["id"] == first["id"]
    assert second["since"] == first["since"]
    assert second["ended_at"] is None
    assert second["seen_at"] > first["seen_at"] == first["since"]
    assert timedelta(0) < second["seen_at"] - second["listed_at"] < timedelta(seconds=5)


@shared
@COMMITTED
@pytest.mark.parametrize(("silent", "kept"), [(7, True), (9, False)])
def test_gap_between_two_reports_resets_since(reporter, silent, kept):
    def with_a_gap():
        reporter.report()
        earlier = timedelta(seconds=silent)
        WorkerHeartbeat.objects.update(seen_at=F("seen_at") - earlier, since=F("since") - earlier)
        before = reported()
        reporter.report()
        return before, reported()

    before, after = in_a_thread(with_a_gap)
    assert (after["since"] == before["since"]) is kept
    assert kept or after["since"] == after["seen_at"]


@shared
@COMMITTED
def test_deleted_row_is_created_again(reporter):
    def without():
        reporter.report()
        WorkerHeartbeat.objects.all().delete()
        reporter.report()

    in_a_thread(without)
    assert reported()["hostname"] == "celery@w1"


@shared
@COMMITTED
def test_last_report_names_tasks_still_held(reporter):
    task = Task("a", 7.5)
    state.active_requests.add(task)
    in_a_thread(lambda: reporter.report(last=True))
    row = reported()
    assert row["ended_at"] == row["seen_at"]
    assert row["active"] == {"a": 7.5}


@shared
@COMMITTED
def test_connection_is_the_threads_own_and_limited(reporter):
    mine = connection.connection

    def ask():
        reporter.report()
        (session,) = {reporter.writer.connection, connections["default"]}
        assert session.connection is not mine
        with session.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            return cursor.fetchone(), reporter.writer.connection.settings_dict["OPTIONS"]

    timeout, options = in_a_thread(ask)
    assert timeout == ("0",), "a limit that outlives its transaction is another client's, behind a pooler"
    assert options["connect_timeout"] == 2
    assert options["tcp_user_timeout"] == 2000
    assert connection.connection is mine


@shared
@COMMITTED
def test_session_is_reported_unless_a_pooler_is_in_between(reporter):
    def own():
        reporter.report()
        with reporter.writer.connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            return cursor.fetchone()[0]

    assert in_a_thread(own) == reported()["backend_pid"]

    class Pooled:
        vendor, cursor = "postgresql", connection.cursor
        connection = SimpleNamespace(info=SimpleNamespace(backend_pid=-1))

    assert backend_session(Pooled) == BackendSession()
