"""Scanning RabbitMQ, which shows messages to consumers only."""

from uuid import uuid4

import pytest
from amqp.exceptions import NotFound
from freezegun.api import real_monotonic
from kombu import Connection

from reaper.broker.amqp import scan_amqp
from reaper.broker.connection import Broker
from reaper.broker.queues import scan_queues
from reaper.broker.snapshot import QueueScan
from tests.reaper.broker.messages import Consumer, celery_app, scan, send


def test_rabbitmq_queue_whose_node_is_down_is_not_empty():
    class Channel:
        def queue_declare(self, queue, passive):
            there = f"home node 'rabbit@two' of durable queue '{queue}' in vhost '/' is down or inaccessible"
            raise NotFound(f"NOT_FOUND - {there if queue == 'down' else f'no queue {queue!r}'}")

    class Two:
        channel_errors = (NotFound,)
        channel = Channel
        maybe_close_channel = print

    running = QueueScan(["down", "none"], real_monotonic() + 60)
    scan_amqp(running, Two())
    found = running.result()
    assert found.incomplete_queues == {"down"}
    assert found.depth == {"down": None, "none": 0}
    assert found.error.startswith("down cannot be inspected: NotFound: ")


@pytest.mark.live
@pytest.mark.xdist_group("rabbit")
class TestRabbit:
    @pytest.fixture
    def app(self, rabbit, monkeypatch):
        monkeypatch.delenv("CELERY_BROKER_WRITE_URL", raising=False)
        return celery_app(rabbit.url)

    @pytest.fixture
    def names(self):
        """Names of queues that no other test uses."""
        return [str(uuid4()) for _ in range(3)]

    def test_empty_and_missing_queues_hold_no_message(self, app, rabbit, names):
        empty, none, full = names
        send(app, empty, "e1")
        with Consumer(rabbit.url, empty) as consumer:
            consumer.take()[1].ack()
            send(app, full, "f1", "f2")
            found = scan(app, empty, none, full)
        assert found.depth == {empty: 0, none: 0, full: 2}
        assert found.consumers == {empty: 1, none: 0, full: 0}
        assert found.incomplete_queues == {full}
        assert found.waiting == set()
        assert found.unacked == set()
        assert found.error == f"{full} holds 2 messages, which RabbitMQ shows to consumers only"
        assert found.is_absent("e1", [empty]) is found.is_absent("e1", [empty, none]) is True
        assert found.is_absent("f1", [full]) is found.is_absent("e1", [empty, full]) is None

    def test_scan_creates_and_redelivers_nothing(self, app, rabbit, names):
        send(app, names[0], "r1")
        for _ in range(3):
            scan(app, *names)
        assert scan(app, *names).depth == {names[0]: 1, names[1]: 0, names[2]: 0}
        with Consumer(rabbit.url, names[0]) as consumer:
            task_id, message = consumer.take()
            assert task_id == "r1"
            assert message.delivery_info["redelivered"] is False
            message.ack()

    def test_refused_queue_is_incomplete_and_the_others_are_not(self, app, rabbit, names):
        with Connection(rabbit.url) as other:
            other.channel().queue_declare(names[0], exclusive=True)
            with Broker(app) as link:
                found = scan_queues(link, names)
                assert link.error == ""
        assert found.incomplete_queues == {names[0]}
        assert found.depth[names[0]] is None
        assert found.error.startswith(f"{names[0]} cannot be inspected: ResourceLocked: ")
        assert found.is_absent("gone", names[1:]) is True

    def test_scan_with_hanging_rabbitmq_reports_no_task_absent(self, app, rabbit, names):
        link = Broker(app)
        assert scan_queues(link, names).complete
        with rabbit.stopped(), link:
            begin = real_monotonic()
            found = scan_queues(link, names)
            assert real_monotonic() - begin < 4
        assert found.error.startswith("the broker did not answer: ")
        assert found.is_absent("gone", names) is None
