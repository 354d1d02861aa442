"""Scanning a broker of any kind: unsupported, refusing, hanging or out of time."""

import pytest
from freezegun.api import real_monotonic

from reaper.broker.connection import Broker
from reaper.broker.queues import scan_queues
from reaper.broker.snapshot import QueueSnapshot
from tests.reaper.broker.messages import celery_app, scan, send


def test_scan_out_of_time_reports_no_task_absent(app):
    send(app, "crawl", "c1")
    found = scan(app, "crawl", "default", seconds=-1)
    assert found.complete is False
    assert found.depth["crawl"] == 1
    assert found.error == "the scan timed out before every queue was read"
    assert found.is_absent("gone", ["default"]) is None


def test_scan_of_an_unsupported_transport_is_reported(app):
    found = scan(celery_app("memory://"), "crawl")
    assert found == QueueSnapshot(
        depth={"crawl": None},
        consumers={"crawl": None},
        incomplete_queues={"crawl"},
        error="the memory transport cannot be inspected",
    )


def test_scan_with_refusing_broker_reports_no_task_absent(refusing_broker):
    begin = real_monotonic()
    with Broker() as link:
        found = scan_queues(link, ["crawl"])
        assert scan_queues(link, ["crawl"]).error == found.error == link.error
    assert real_monotonic() - begin < 2
    assert found.error.startswith("the broker did not answer: ")
    assert found.depth == {"crawl": None}
    assert found.is_absent("gone", ["crawl"]) is None


@pytest.mark.live
def test_scan_with_hanging_broker_ends_within_4s(hanging_broker):
    begin = real_monotonic()
    with Broker() as link:
        found = scan_queues(link, ["crawl"])
    assert real_monotonic() - begin < 4
    assert found.error.startswith("the broker did not answer: ")
    assert not found.complete
