"""Scanning Redis: which messages are there, what cannot be known, and that nothing is disturbed."""

import threading
from itertools import count
from uuid import uuid4

import pytest
from freezegun.api import real_monotonic
from kombu.transport.redis import GlobalKeyPrefixMixin

from reaper.adapters import Message
from reaper.broker import redis
from reaper.broker.connection import Broker
from reaper.broker.queues import scan_queues
from tests.processes import PATIENCE, wait_until
from tests.reaper.broker.messages import TASK, Consumer, celery_app, scan, send


class TestRedis:
    def test_scan_finds_waiting_tasks_in_every_queue_and_priority(self, app):
        for priority in (0, 2, 3, 5, 6, 9):
            send(app, "crawl", f"c{priority}", priority=priority)
        send(app, "default", "d1", "d2")
        found = scan(app, "crawl", "default", "nobody's")
        assert found.waiting == {"c0", "c2", "c3", "c5", "c6", "c9", "d1", "d2"}
        assert found.depth == {"crawl": 6, "default": 2, "nobody's": 0}
        assert found.unacked == set()
        assert found.incomplete_queues == set()
        assert found.error == ""
        assert found.malformed == 0
        assert found.complete

    def test_task_is_absent_only_from_scanned_queues(self, app):
        send(app, "crawl", "c1")
        found = scan(app, "crawl", "default")
        assert found.is_absent("c1", ["crawl"]) is False
        assert found.is_absent("c1", []) is False
        assert found.is_absent("gone", ["crawl", "default"]) is True
        assert found.is_absent("gone", ["crawl", "another"]) is None
        assert found.is_absent("gone", []) is None

    @pytest.mark.parametrize("prefix", ["", "mine:"])
    def test_scan_finds_tasks_in_unnamed_queues(self, broker, app, prefix):
        there = celery_app(broker.url, global_keyprefix=prefix)
        there.send_task(TASK, queue="forgotten", task_id="f1")
        broker.client.sadd(f"{prefix}_kombu.binding.celery.pidbox", "\x06\x16\x06\x16celery@w1.celery.pidbox")
        found = scan(there, "crawl")
        assert found.waiting == {"f1"}
        assert found.depth == {"crawl": 0, "forgotten": 1}

    def test_delivered_message_is_unacked_until_acknowledged(self, app, broker):
        send(app, "crawl", "c1", "c2")
        with Consumer(broker.url, "crawl") as consumer:
            task_id, message = consumer.take()
            found = scan(app, "crawl")
            assert found.waiting == {"c2"}
            assert found.unacked == {task_id}
            assert found.complete is True
            assert found.is_absent(task_id, ["crawl"]) is False
            message.ack()
            assert scan(app, "crawl").is_absent(task_id, ["crawl"]) is True

    def test_scan_finds_10000_unacked_messages(self, app, broker):
        send(app, "crawl", "c1")
        raw = broker.client.lpop("crawl").decode()
        ids = [str(uuid4()) for _ in range(10_000)]
        broker.client.hset("unacked", mapping={each: f'[{raw.replace("c1", each)}, "", "crawl"]' for each in ids})
        assert scan(app, "crawl").unacked == set(ids)

    def test_child_task_is_not_mistaken_for_its_parent_or_root(self, app):
        send(app, "crawl", "child", parent_id="parent", root_id="root")
        found = scan(app, "crawl")
        assert found.waiting == {"child"}
        assert found.is_absent("parent", ["crawl"]) is found.is_absent("root", ["crawl"]) is True

    def test_scan_reads_its_own_key_prefix_only(self, app, broker):
        ours = celery_app(broker.url, global_keyprefix="ours:")
        theirs = celery_app(broker.url, global_keyprefix="theirs:")
        for each, task_id in ((ours, "o"), (theirs, "t"), (app, "a")):
            send(each, "crawl", f"{task_id}0", f"{task_id}1")
            send(each, "crawl", f"{task_id}9", priority=9)
        with Consumer(broker.url, "crawl", global_keyprefix="ours:") as consumer:
            taken, _ = consumer.take()
            found = scan(ours, "crawl")
            assert found.waiting | found.unacked == {"o0", "o1", "o9"}
            assert found.unacked == {taken}
            assert found.depth == {"crawl": 2}
            assert found.complete is True
            assert scan(app, "crawl").waiting == {"a0", "a1", "a9"}
            assert scan(app, "crawl").unacked == set()

    def test_scan_respects_priority_steps_and_separator(self, broker, app):
        ours = celery_app(broker.url, priority_steps=[0, 5], sep=":", unacked_key="taken")
        send(ours, "crawl", "low", priority=4)
        send(ours, "crawl", "high", priority=5)
        assert set(broker.client.keys("crawl*")) == {b"crawl", b"crawl:5"}
        with Consumer(broker.url, "crawl", priority_steps=[0, 5], sep=":", unacked_key="taken") as consumer:
            taken, _ = consumer.take()
            found = scan(ours, "crawl")
            assert found.waiting | found.unacked == {"low", "high"}
            assert found.unacked == {taken}

    @pytest.mark.parametrize("place", ["waiting", "unacked"])
    def test_scan_of_other_keys_than_kombus_is_incomplete(self, broker, monkeypatch, app, place):
        ours = celery_app(broker.url, global_keyprefix="ours:")
        send(ours, "crawl", "o1", "o2")
        command = "LRANGE" if place == "waiting" else "HSCAN"
        prefixed = [*GlobalKeyPrefixMixin.PREFIXED_SIMPLE_COMMANDS, command]
        with Consumer(broker.url, "crawl", global_keyprefix="ours:") as consumer:
            consumer.take()
            monkeypatch.setattr(GlobalKeyPrefixMixin, "PREFIXED_SIMPLE_COMMANDS", prefixed)
            found = scan(ours, "crawl")
        assert not found.complete
        assert found.error.endswith("1 messages, of which Redis shows " + ("0" if place == "waiting" else "none"))
        assert found.is_absent("gone", ["crawl"]) is None

    def test_scan_changes_nothing_in_redis(self, app, broker):
        send(app, "crawl", "c1", "c2")
        with Consumer(broker.url, "crawl") as consumer:
            consumer.take()
            state = lambda: {key: broker.client.dump(key) for key in broker.client.scan_iter()}  # noqa: E731
            before, connected = state(), broker.client.info("clients")["connected_clients"]
            scan(app, "crawl", "default", "nobody's")
            assert state() == before
            wait_until(lambda: broker.client.info("clients")["connected_clients"] <= connected)

    def test_broker_can_scan_twice_and_publish_in_between(self, app, broker):
        with Broker(app) as link:
            assert scan_queues(link, ["crawl"]).waiting == set()
            link.publish(TASK, Message(options={"queue": "crawl"}), "c1")
            assert scan_queues(link, ["crawl"]).waiting == {"c1"}


UNREADABLE = {
    "no json": b"garbage",
    "no text": b"\xff\xfe",
    "a number": b"1",
    "an empty list": b"[]",
    "an empty object": b"{}",
    "no headers": b'{"headers": null}',
    "no id": b'{"headers": {"root_id": "c1"}}',
    "an empty id": b'{"headers": {"id": ""}}',
    "a number for an id": b'{"headers": {"id": 7}}',
    "too deep": b"[" * 100_000,
}


class TestUnreadable:
    @pytest.mark.parametrize("raw", UNREADABLE.values(), ids=UNREADABLE)
    def test_malformed_waiting_message_makes_only_its_queue_incomplete(self, app, broker, raw):
        send(app, "crawl", "c1")
        broker.client.lpush("crawl", raw)
        send(app, "crawl", "c2")
        found = scan(app, "crawl", "default")
        assert found.waiting == {"c1", "c2"}
        assert found.malformed == 1
        assert found.incomplete_queues == {"crawl"}
        assert found.error == "a message could not be decoded; it may belong to any task"
        assert not found.complete
        assert [found.is_absent(each, ["crawl"]) for each in ("c1", "gone")] == [False, None]
        assert found.is_absent("gone", ["default"]) is True

    @pytest.mark.parametrize("raw", UNREADABLE.values(), ids=UNREADABLE)
    def test_malformed_delivered_message_makes_every_queue_incomplete(self, app, broker, raw):
        send(app, "crawl", "c1")
        broker.client.hset("unacked", "tag", raw)
        found = scan(app, "crawl", "default")
        assert found.waiting == {"c1"}
        assert found.malformed == 1
        assert found.incomplete_queues == {"crawl", "default"}
        assert found.is_absent("gone", ["default"]) is None

    def test_message_truncated_after_its_id_is_malformed(self, app, broker):
        send(app, "crawl", "c1")
        broker.client.lpush("crawl", broker.client.lpop("crawl")[:-20])
        assert scan(app, "crawl").malformed == 1
        assert scan(app, "crawl").waiting == set()

    def test_key_of_another_type_is_refused_and_no_outage(self, app, broker):
        broker.client.set("crawl", "no list")
        with Broker(app) as link:
            found = scan_queues(link, ["crawl", "default"])
            assert link.error == ""
        assert found.error.startswith("the broker refused the scan: ResponseError: ")
        assert found.complete is False
        assert found.depth == {"crawl": None, "default": None}


class TestLimits:
    def test_queue_over_the_message_limit_is_skipped_and_others_are_read(self, app, monkeypatch):
        monkeypatch.setattr(redis, "MAX_MESSAGES", 5)
        send(app, "deep", *(f"d{number}" for number in range(6)))
        send(app, "crawl", "c1")
        found = scan(app, "deep", "crawl")
        assert found.waiting == {"c1"}
        assert found.depth == {"deep": 6, "crawl": 1}
        assert found.incomplete_queues == {"deep"}
        assert found.error == "deep holds 6 messages, too many to read in one scan"
        assert found.is_absent("gone", ["crawl"]) is True
        assert found.is_absent("d1", ["deep"]) is None

    def test_page_size_shrinks_for_large_messages(self):
        assert redis.next_page_size([b"x" * 1_000] * 10) == 1_000
        assert redis.next_page_size([b"x" * 1_000_000] * 10) == 1
        assert redis.next_page_size([]) == 1_000

    @pytest.mark.live
    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_scan_with_broker_lost_half_way_keeps_what_it_found(self, hanging_broker, monkeypatch, end):
        hanging_broker.resume()
        app = celery_app(hanging_broker.url, retry_on_timeout=True)
        monkeypatch.delenv("CELERY_BROKER_WRITE_URL")
        send(app, "crawl", *(f"c{number}" for number in range(50)))

        def go(rows):
            hanging_broker.stop() if end == "stop" else hanging_broker.process.kill()
            return 1_000

        monkeypatch.setattr(redis, "next_page_size", go)
        begin = real_monotonic()
        with Broker(app) as link:
            found = scan_queues(link, ["crawl", "default"])
            assert link.error == found.error
        assert real_monotonic() - begin < 3
        assert found.error.startswith("the broker did not answer: ")
        assert len(found.waiting) == redis.FIRST_PAGE
        assert [found.is_absent(each, ["crawl"]) for each in ("c49", "c0")] == [False, None]
        assert found.is_absent("gone", ["default"]) is None


@pytest.mark.live
@pytest.mark.parametrize("stay", [2_500, pytest.param(50_000, marks=pytest.mark.lane)])
def test_scan_under_churn_finds_what_stays_and_disturbs_nothing(app, broker, stay):
    send(app, "crawl", "sample")
    sample = broker.client.rpop("crawl").decode()
    raw = lambda task_id: sample.replace("sample", task_id)  # noqa: E731
    # The oldest are consumed first, so those that stay are between them and the new ones.
    gone, stays = [[f"{word}{number}" for number in range(stay)] for word in ("old", "stay")]
    broker.client.lpush("crawl", *(raw(task_id) for task_id in (*gone, *stays)))
    sent, taken, ended = count(), [], threading.Event()

    def produce():
        with Broker(app) as link:
            while not ended.is_set():
                link.publish(TASK, Message(["x"], options={"queue": "crawl"}), f"new{next(sent)}")

    def consume():
        with Consumer(broker.url, "crawl") as consumer:
            while not ended.is_set() and len(taken) < stay:
                task_id, message = consumer.take()
                taken.append(task_id)
                message.ack()

    threads = [threading.Thread(target=work) for work in (produce, consume)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(taken) > 20)
        for _ in range(20):
            found = scan(app, "crawl")
            assert found.error == ""
            assert set(stays) <= found.waiting
    finally:
        ended.set()
        for thread in threads:
            thread.join(PATIENCE)
    left = [task_id for task_id, *_ in broker.waiting("crawl")]
    assert taken == gone[: len(taken)]
    assert left == [*gone[len(taken) :], *stays, *(f"new{number}" for number in range(next(sent)))]
    assert broker.client.hlen("unacked") == 0
