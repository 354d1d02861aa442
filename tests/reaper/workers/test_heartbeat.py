"""The heartbeat thread: what does not end it, and how it starts and ends with its worker."""

import pytest
from celery import bootsteps

from reaper.workers import heartbeat, identity, timing
from reaper.workers.heartbeat import HeartbeatThread
from reaper.workers.heartbeat_writer import HeartbeatWriter
from reaper.workers.identity import WorkerIdentity
from reaper.workers.native_threads import held_lock, release
from tests.processes import in_a_thread

WORKER = WorkerIdentity("celery@w1", "abc")


class FailingWriter:
    """Fails the first `failures` writes."""

    def __init__(self, failures):
        self.failures = failures
        self.writes = 0
        self.disconnects = 0

    def write(self, collect, *, last):
        self.writes += 1
        if self.writes <= self.failures:
            raise OSError("boom")

    def disconnect(self):
        self.disconnects += 1


@pytest.fixture
def failing(consumer):
    """A function that returns a thread whose first writes fail."""

    def make(failures):
        thread = HeartbeatThread(consumer, WORKER)
        thread.writer = FailingWriter(failures)
        return thread

    return make


def test_failed_write_is_repeated_over_a_new_connection(failing, caplog):
    thread = failing(1)
    thread.report()
    assert thread.writer.writes == 2
    assert thread.writer.disconnects == 1
    assert caplog.messages == []


def test_failing_writes_are_logged_once_and_so_is_their_end(failing, caplog):
    thread = failing(6)
    for _ in range(5):
        thread.report()
    assert len(caplog.messages) == 2
    assert "cannot report to the reaper: OSError: boom" in caplog.messages[0]
    assert "reports to the reaper again" in caplog.messages[1]


def test_thread_ends_only_after_the_last_report(failing, monkeypatch):
    monkeypatch.setattr(timing, "REPORT_INTERVAL_S", 0)
    thread = failing(99)

    def log_trouble(trouble, error):
        thread.leaving = thread.writer.writes > 6
        raise ValueError("raised by a log handler")

    monkeypatch.setattr(thread.troubles, "log_trouble", log_trouble)
    in_a_thread(thread.run)
    assert thread.writer.writes == 10
    assert thread.gone.acquire(timeout=0)


def test_worker_waits_briefly_for_its_first_report(consumer, monkeypatch):
    hanging, ended, registered = held_lock(), held_lock(), []

    def hang(self, collect, *, last):
        hanging.acquire()
        heartbeat.heartbeat.leaving = True
        hanging.release()

    monkeypatch.setattr(HeartbeatWriter, "write", hang)
    monkeypatch.setattr(HeartbeatWriter, "disconnect", lambda self: release(ended))
    monkeypatch.setattr(heartbeat, "heartbeat", None)
    monkeypatch.setattr(identity, "current", WORKER)
    monkeypatch.setattr(timing, "WRITE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(timing, "REPORT_INTERVAL_S", 0)
    monkeypatch.setattr(heartbeat.atexit, "register", registered.append)
    for _ in range(2):
        heartbeat.on_ready(consumer)
    assert registered == [heartbeat.on_shutdown], "the second call starts nothing"
    assert not heartbeat.heartbeat.leaving
    hanging.release()
    assert ended.acquire(timeout=10)


def test_last_report_is_not_written_while_the_pool_lives(consumer, monkeypatch):
    thread = HeartbeatThread(consumer, WORKER)
    monkeypatch.setattr(heartbeat, "heartbeat", thread)
    heartbeat.on_shutdown()
    assert not thread.leaving
    consumer.controller.blueprint.state = bootsteps.TERMINATE
    release(thread.gone)
    heartbeat.on_shutdown()
    assert thread.leaving


def test_shutdown_signals_without_a_worker_do_nothing():
    assert heartbeat.heartbeat is None
    heartbeat.on_shutting_down()
    heartbeat.on_shutdown()
