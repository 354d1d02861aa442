"""What a worker reports about itself."""

import logging
from types import SimpleNamespace

import pytest
from celery import bootsteps
from celery.worker import state

from reaper.workers.heartbeat_report import ReportCollector
from reaper.workers.trouble_log import TroubleLog
from tests.reaper.requests import Task


@pytest.fixture
def collector(consumer):
    return ReportCollector(consumer, TroubleLog())


def test_task_that_moves_between_lists_during_a_snapshot_is_held(collector, consumer):
    task = Task("a")

    def move():
        """Move the task from the buckets, which are read now, to a list that has been read already."""
        state.reserved_requests.add(task)
        return []

    consumer.task_buckets = SimpleNamespace(values=move)
    assert collector.held_tasks().held == {"a"}


def test_tasks_are_reported_after_a_cold_shutdown_cleared_them(collector):
    running, queued = Task("running", 7.5), Task("queued")
    state.active_requests.add(running)
    state.reserved_requests.add(queued)
    collector.collect()
    state.reset_state()
    cleared = collector.collect()
    assert cleared.active == {}
    assert cleared.held == []
    state.active_requests.add(running)
    state.reserved_requests.add(queued)
    collector.collect()
    state.reset_state()
    # A report between the clearing of the lists and the flag.
    collector.collect()
    state.should_terminate = True
    for _ in range(3):
        report = collector.collect()
        assert report.active == {"running": 7.5}
        assert report.held == ["queued"]
        assert report.draining


def test_queue_that_not_every_database_accepts_is_left_out_and_reported(collector, consumer):
    consumer.app.amqp.queues.consume_from["nul\0"] = None
    report = collector.collect()
    assert report.queues == ["crawl", "mail"]
    assert not report.complete


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
def test_worker_that_shuts_down_drains_and_consumes_nothing(collector, consumer, sign, draining):
    state.should_stop, state.should_terminate = sign.get("should_stop"), sign.get("should_terminate")
    consumer.controller.blueprint.state = sign.get("blueprint", bootsteps.RUN)
    collector.shutdown_announced = sign.get("shutdown_announced", False)
    report = collector.collect()
    assert report.draining is draining
    assert report.queues == ([] if draining else ["crawl", "mail"])


def test_report_after_a_celery_change_is_incomplete_and_logged(collector, consumer, caplog):
    del consumer.timer
    for _ in range(2):
        report = collector.collect()
        assert not report.complete
        assert report.active == {}
        assert report.held == []
    consumer.timer = SimpleNamespace(queue=[])
    assert collector.collect().complete
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "cannot determine which tasks it holds" in caplog.messages[0]
