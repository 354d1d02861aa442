"""The reporter's parts: what it sees, what it writes, and what does not end it."""

import logging
import sys
from datetime import timedelta
from threading import get_ident
from types import SimpleNamespace

import pytest
from celery import bootsteps
from celery.worker import state
from django.db import connection, connections
from django.db.models import F

from reaper.models import WorkerHeartbeat
from reaper.workers import heartbeat as reporter
from reaper.workers.heartbeat import HeartbeatThread, held_lock, release
from tests.processes import Race
from tests.reaper.requests import Task
from tests.worlds import COMMITTED


@pytest.fixture
def me(consumer, monkeypatch):
    """A reporter of the worker celery@w1/abc. It is run by no thread."""
    monkeypatch.setattr(reporter, "hostname", "celery@w1")
    monkeypatch.setattr(reporter, "incarnation", "abc")
    return HeartbeatThread(consumer)


def elsewhere(what):
    """Do it in a thread of its own, as the reporter's is; return the answer."""
    race = Race()
    race.run(what)
    (answer,) = race.join()
    return answer


# --- identity -----------------------------------------------------------------------------------------------------


def test_outside_of_a_worker_there_is_no_identity():
    assert reporter.worker_name() == ""


def test_every_start_of_a_worker_is_a_new_incarnation(monkeypatch):
    monkeypatch.setattr(reporter, "hostname", "")
    monkeypatch.setattr(reporter, "incarnation", "")
    names = set()
    for _ in range(2):
        reporter.on_init(SimpleNamespace(hostname="celery@w1"))
        names.add(reporter.worker_name())
    assert len(names) == 2
    assert {name.rpartition("/")[0] for name in names} == {"celery@w1"}


# --- what it sees -------------------------------------------------------------------------------------------------


def test_a_task_that_moves_between_two_lists_while_they_are_read_is_seen(me, consumer):
    task = Task("a")

    def move():
        """It leaves the buckets, which are read now, for a list that has been read already."""
        state.reserved_requests.add(task)
        return []

    consumer.task_buckets = SimpleNamespace(values=move)
    assert me.holding().held == {"a"}


def test_before_a_cold_shutdown_forgets_its_tasks_they_are_remembered(me):
    running, queued = Task("running", 7.5), Task("queued")
    state.active_requests.add(running)
    state.reserved_requests.add(queued)
    me.look()
    state.reset_state()
    assert (me.look()["active"], me.look()["held"]) == ({}, [])
    state.active_requests.add(running)
    state.reserved_requests.add(queued)
    me.look()
    state.reset_state()
    # A look between the forgetting and the flag.
    me.look()
    state.should_terminate = True
    for _ in range(3):
        said = me.look()
        assert (said["active"], said["held"], said["draining"]) == ({"running": 7.5}, ["queued"], True)


def test_a_queue_that_not_every_database_can_name_is_left_out_and_said_so(me, consumer):
    consumer.app.amqp.queues.consume_from["nul\0"] = None
    assert (me.look()["queues"], me.look()["complete"]) == (["crawl", "mail"], False)


@pytest.mark.parametrize(
    ("sign", "draining"),
    [
        ({}, False),
        ({"should_stop": 0}, True),
        ({"should_stop": False}, False),
        ({"should_terminate": 1}, True),
        ({"blueprint": bootsteps.CLOSE}, True),
        ({"shutdown_announced": True}, True),
    ],
)
def test_a_worker_that_takes_no_more_tasks_drains_and_consumes_nothing(me, consumer, sign, draining):
    state.should_stop, state.should_terminate = sign.get("should_stop"), sign.get("should_terminate")
    consumer.controller.blueprint.state = sign.get("blueprint", bootsteps.RUN)
    me.draining = sign.get("shutdown_announced", False)
    said = me.look()
    assert (said["draining"], said["queues"]) == (draining, [] if draining else ["crawl", "mail"])


def test_where_celery_has_changed_it_says_that_it_cannot_see(me, consumer, caplog):
    del consumer.timer
    for _ in range(2):
        said = me.look()
        assert (said["complete"], said["active"], said["held"]) == (False, {}, [])
    consumer.timer = SimpleNamespace(queue=[])
    assert me.look()["complete"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "cannot see which tasks it holds" in caplog.messages[0]


# --- what it writes -----------------------------------------------------------------------------------------------

shared = pytest.mark.skipif(
    connection.vendor == "sqlite", reason="SQLite's test database is in one connection's memory"
)


def reported():
    return WorkerHeartbeat.objects.values().get()


@shared
@COMMITTED
def test_a_worker_has_one_row_that_it_rewrites(me):
    def twice():
        me.report()
        first = reported()
        me.report()
        return first, reported()

    first, second = elsewhere(twice)
    assert (second["id"], second["since"], second["ended_at"]) == (first["id"], first["since"], None)
    assert second["seen_at"] > first["seen_at"] == first["since"]
    assert timedelta(0) < second["seen_at"] - second["listed_at"] < timedelta(seconds=5)


@shared
@COMMITTED
@pytest.mark.parametrize(("silent", "kept"), [(7, True), (9, False)])
def test_a_gap_between_two_reports_starts_the_reporting_anew(me, silent, kept):
    def with_a_gap():
        me.report()
        earlier = timedelta(seconds=silent)
        WorkerHeartbeat.objects.update(seen_at=F("seen_at") - earlier, since=F("since") - earlier)
        before = reported()
        me.report()
        return before, reported()

    before, after = elsewhere(with_a_gap)
    assert (after["since"] == before["since"]) is kept
    assert kept or after["since"] == after["seen_at"]


@shared
@COMMITTED
def test_a_row_that_somebody_deleted_is_made_again(me):
    def without():
        me.report()
        WorkerHeartbeat.objects.all().delete()
        me.report()

    elsewhere(without)
    assert reported()["hostname"] == "celery@w1"


@shared
@COMMITTED
def test_the_goodbye_keeps_what_is_still_held(me):
    task = Task("a", 7.5)
    state.active_requests.add(task)
    elsewhere(lambda: me.report(last=True))
    row = reported()
    assert row["ended_at"] == row["seen_at"]
    assert row["active"] == {"a": 7.5}


@shared
@COMMITTED
def test_its_connection_is_its_own_and_bounded(me):
    mine = connection.connection

    def ask():
        me.report()
        (session,) = {me.connection, connections["default"]}
        assert session.connection is not mine
        with session.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            return cursor.fetchone(), me.connection.settings_dict["OPTIONS"]

    timeout, options = elsewhere(ask)
    assert timeout == ("0",), "a bound that outlives its transaction is another client's, behind a pooler"
    assert (options["connect_timeout"], options["tcp_user_timeout"]) == (2, 2000)
    assert connection.connection is mine


def test_the_queries_of_a_long_life_are_not_kept(settings):
    settings.DEBUG = True
    queries = reporter.own_connection("default").queries_log
    queries.append("a query")
    assert not queries


def test_a_pool_of_connections_is_not_used():
    wrapper = reporter.own_connection("default")
    connections.databases["default"]["OPTIONS"]["pool"] = True
    try:
        assert "pool" not in reporter.own_connection("default").settings_dict["OPTIONS"]
    finally:
        del connections.databases["default"]["OPTIONS"]["pool"]
    assert wrapper.settings_dict is not connections.databases["default"]


@shared
@COMMITTED
def test_its_session_is_named_unless_a_pooler_is_in_between(me, monkeypatch):
    def own():
        me.report()
        with me.connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            return cursor.fetchone()[0]

    assert elsewhere(own) == reported()["backend_pid"]

    class Pooled:
        vendor, cursor = "postgresql", connection.cursor
        connection = SimpleNamespace(info=SimpleNamespace(backend_pid=-1))

    assert reporter.backend_session(Pooled) == (None, None)


# --- what does not end it -----------------------------------------------------------------------------------------


class Failing(HeartbeatThread):
    """Writes fail as often as is asked for."""

    def __init__(self, consumer, failures):
        super().__init__(consumer)
        self.failures, self.tries, self.drops = failures, 0, 0

    def write(self, last):
        self.tries += 1
        if self.tries <= self.failures:
            raise OSError("boom")

    def disconnect(self):
        self.drops += 1


def test_a_write_that_fails_is_tried_again_at_once_over_a_new_connection(consumer, caplog):
    me = Failing(consumer, 1)
    me.report()
    assert (me.tries, me.drops, caplog.messages) == (2, 1, [])


def test_failing_is_logged_once_and_so_is_its_end(consumer, caplog):
    me = Failing(consumer, 6)
    for _ in range(5):
        me.report()
    assert len(caplog.messages) == 2
    assert "cannot report to the reaper: OSError: boom" in caplog.messages[0]
    assert "reports to the reaper again" in caplog.messages[1]


def test_nothing_ends_the_thread_but_the_goodbye(consumer, monkeypatch):
    monkeypatch.setattr(reporter, "INTERVAL", 0)
    me = Failing(consumer, 99)

    def tell(trouble, error):
        me.leaving = me.tries > 6
        raise ValueError("a log handler's own")

    monkeypatch.setattr(me, "tell", tell)
    elsewhere(me.run)
    assert me.tries == 10
    assert me.gone.acquire(timeout=0)


def test_a_worker_waits_for_its_first_report_but_not_for_long(consumer, monkeypatch):
    hanging, ended, registered = held_lock(), held_lock(), []

    def hang(self, last):
        hanging.acquire()
        self.leaving = True
        hanging.release()

    monkeypatch.setattr(HeartbeatThread, "write", hang)
    monkeypatch.setattr(HeartbeatThread, "disconnect", lambda self: release(ended))
    monkeypatch.setattr(reporter, "reporter", None)
    monkeypatch.setattr(reporter, "incarnation", "abc")
    monkeypatch.setattr(reporter, "DEADLINE", 0.05)
    monkeypatch.setattr(reporter, "INTERVAL", 0)
    monkeypatch.setattr(reporter.atexit, "register", registered.append)
    for _ in range(2):
        reporter.on_ready(consumer)
    assert registered == [reporter.on_shutdown], "a second start is none"
    assert not reporter.reporter.leaving
    hanging.release()
    assert ended.acquire(timeout=10)


def test_it_says_no_goodbye_while_the_pool_may_live(consumer, monkeypatch):
    me = HeartbeatThread(consumer)
    monkeypatch.setattr(reporter, "reporter", me)
    reporter.on_shutdown()
    assert not me.leaving
    consumer.controller.blueprint.state = bootsteps.TERMINATE
    release(me.gone)
    reporter.on_shutdown()
    assert me.leaving


def test_without_a_worker_the_signals_do_nothing():
    assert reporter.reporter is None
    reporter.on_shutting_down()
    reporter.on_shutdown()


def test_a_patched_function_is_taken_as_it_was(monkeypatch):
    monkey = SimpleNamespace(get_original=lambda module, name: f"the native {module}.{name}")
    monkeypatch.setitem(sys.modules, "gevent.monkey", monkey)
    assert reporter.unpatched("_thread", "get_ident") == "the native _thread.get_ident"
    monkeypatch.delitem(sys.modules, "gevent.monkey")
    assert reporter.unpatched("_thread", "get_ident") is get_ident
