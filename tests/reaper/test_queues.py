"""A look into the broker: which messages are still there, what cannot be known, and that nothing is disturbed."""

import json
import threading
from itertools import count
from uuid import uuid4

import pytest
from amqp.exceptions import NotFound
from celery import Celery
from freezegun.api import real_monotonic
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu import Connection
from kombu.transport.redis import GlobalKeyPrefixMixin

from reaper.adapters import Message
from reaper.broker import queues
from reaper.broker.connection import Broker
from reaper.broker.queues import QueueSnapshot, scan_queues, task_id_in
from tests.processes import PATIENCE
from tests.servers import eventually

TASK = "little.hold"


def project(url, **transport_options):
    """A Celery project on that broker."""
    app = Celery("elsewhere", set_as_current=False)
    app.conf.update(broker_write_url=url, broker_transport_options=transport_options)
    return app


@pytest.fixture
def app(broker, monkeypatch):
    monkeypatch.delenv("CELERY_BROKER_WRITE_URL")
    return project(broker.url)


def send(app, queue, *ids, **options):
    with Broker(app) as asked:
        for task_id in ids:
            asked.publish(TASK, Message(["x"], options={"queue": queue, **options}), task_id)


def seen(app, *names, seconds=20.0):
    with Broker(app) as asked:
        return scan_queues(asked, names, seconds)


class Consumer:
    """Takes messages as a worker does, and acknowledges them when it is told to."""

    def __init__(self, url, queue, **transport_options):
        self.connection = Connection(url, transport_options=transport_options)
        self.queue = self.connection.SimpleQueue(queue)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def take(self):
        message = self.queue.get(timeout=10)
        return message.headers["id"], message


class TestRedis:
    def test_what_waits_is_found_in_every_queue_and_priority(self, app):
        for priority in (0, 2, 3, 5, 6, 9):
            send(app, "crawl", f"c{priority}", priority=priority)
        send(app, "default", "d1", "d2")
        found = seen(app, "crawl", "default", "nobody's")
        assert found.waiting == {"c0", "c2", "c3", "c5", "c6", "c9", "d1", "d2"}
        assert found.depth == {"crawl": 6, "default": 2, "nobody's": 0}
        assert (found.unacked, found.incomplete_queues, found.error, found.unread) == (set(), set(), "", 0)
        assert found.complete

    def test_a_task_is_absent_only_from_queues_that_were_seen(self, app):
        send(app, "crawl", "c1")
        found = seen(app, "crawl", "default")
        assert found.absent("c1", ["crawl"]) is False
        assert found.absent("c1", []) is False
        assert found.absent("gone", ["crawl", "default"]) is True
        assert found.absent("gone", ["crawl", "another"]) is None
        assert found.absent("gone", []) is None

    @pytest.mark.parametrize("prefix", ["", "mine:"])
    def test_what_was_sent_to_a_queue_that_nobody_named_is_found_too(self, broker, app, prefix):
        there = project(broker.url, global_keyprefix=prefix)
        there.send_task(TASK, queue="forgotten", task_id="f1")
        broker.client.sadd(f"{prefix}_kombu.binding.celery.pidbox", "\x06\x16\x06\x16celery@w1.celery.pidbox")
        found = seen(there, "crawl")
        assert (found.waiting, found.depth) == ({"f1"}, {"crawl": 0, "forgotten": 1})

    def test_what_was_delivered_is_unacked_until_it_is_acknowledged(self, app, broker):
        send(app, "crawl", "c1", "c2")
        with Consumer(broker.url, "crawl") as consumer:
            task_id, message = consumer.take()
            found = seen(app, "crawl")
            assert (found.waiting, found.unacked, found.complete) == ({"c2"}, {task_id}, True)
            assert found.absent(task_id, ["crawl"]) is False
            message.ack()
            assert seen(app, "crawl").absent(task_id, ["crawl"]) is True

    def test_ten_thousand_unacknowledged_messages_are_found(self, app, broker):
        send(app, "crawl", "c1")
        raw = broker.client.lpop("crawl").decode()
        ids = [str(uuid4()) for _ in range(10_000)]
        broker.client.hset("unacked", mapping={each: f'[{raw.replace("c1", each)}, "", "crawl"]' for each in ids})
        assert seen(app, "crawl").unacked == set(ids)

    def test_a_child_is_not_taken_for_its_parent_or_root(self, app):
        send(app, "crawl", "child", parent_id="parent", root_id="root")
        found = seen(app, "crawl")
        assert found.waiting == {"child"}
        assert found.absent("parent", ["crawl"]) is found.absent("root", ["crawl"]) is True

    def test_only_ones_own_prefix_is_read(self, app, broker):
        ours, theirs = project(broker.url, global_keyprefix="ours:"), project(broker.url, global_keyprefix="theirs:")
        for each, task_id in ((ours, "o"), (theirs, "t"), (app, "a")):
            send(each, "crawl", f"{task_id}0", f"{task_id}1")
            send(each, "crawl", f"{task_id}9", priority=9)
        with Consumer(broker.url, "crawl", global_keyprefix="ours:") as consumer:
            taken, _ = consumer.take()
            found = seen(ours, "crawl")
            assert found.waiting | found.unacked == {"o0", "o1", "o9"}
            assert (found.unacked, found.depth, found.complete) == ({taken}, {"crawl": 2}, True)
            assert seen(app, "crawl").waiting == {"a0", "a1", "a9"}
            assert seen(app, "crawl").unacked == set()

    def test_other_steps_and_another_separator_are_heeded(self, broker, app):
        ours = project(broker.url, priority_steps=[0, 5], sep=":", unacked_key="taken")
        send(ours, "crawl", "low", priority=4)
        send(ours, "crawl", "high", priority=5)
        assert set(broker.client.keys("crawl*")) == {b"crawl", b"crawl:5"}
        with Consumer(broker.url, "crawl", priority_steps=[0, 5], sep=":", unacked_key="taken") as consumer:
            taken, _ = consumer.take()
            found = seen(ours, "crawl")
            assert (found.waiting | found.unacked, found.unacked) == ({"low", "high"}, {taken})

    @pytest.mark.parametrize("place", ["waiting", "unacked"])
    def test_a_reader_that_looks_at_another_key_than_kombu_is_found_out(self, broker, monkeypatch, app, place):
        ours = project(broker.url, global_keyprefix="ours:")
        send(ours, "crawl", "o1", "o2")
        command = "LRANGE" if place == "waiting" else "HSCAN"
        prefixed = [*GlobalKeyPrefixMixin.PREFIXED_SIMPLE_COMMANDS, command]
        with Consumer(broker.url, "crawl", global_keyprefix="ours:") as consumer:
            consumer.take()
            monkeypatch.setattr(GlobalKeyPrefixMixin, "PREFIXED_SIMPLE_COMMANDS", prefixed)
            found = seen(ours, "crawl")
        assert not found.complete
        assert found.error.endswith("1 messages, of which Redis shows " + ("0" if place == "waiting" else "none"))
        assert found.absent("gone", ["crawl"]) is None

    def test_a_look_changes_nothing(self, app, broker):
        send(app, "crawl", "c1", "c2")
        with Consumer(broker.url, "crawl") as consumer:
            consumer.take()
            state = lambda: {key: broker.client.dump(key) for key in broker.client.scan_iter()}  # noqa: E731
            before, connected = state(), broker.client.info("clients")["connected_clients"]
            seen(app, "crawl", "default", "nobody's")
            assert state() == before
            assert eventually(lambda: broker.client.info("clients")["connected_clients"] <= connected)

    def test_one_sweep_may_look_twice_and_publish_in_between(self, app, broker):
        with Broker(app) as asked:
            assert scan_queues(asked, ["crawl"]).waiting == set()
            asked.publish(TASK, Message(options={"queue": "crawl"}), "c1")
            assert scan_queues(asked, ["crawl"]).waiting == {"c1"}


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
    def test_one_message_leaves_its_queue_unclear_and_no_other(self, app, broker, raw):
        send(app, "crawl", "c1")
        broker.client.lpush("crawl", raw)
        send(app, "crawl", "c2")
        found = seen(app, "crawl", "default")
        assert (found.waiting, found.unread, found.incomplete_queues) == ({"c1", "c2"}, 1, {"crawl"})
        assert found.error == "a message could not be decoded: it may be any task's"
        assert not found.complete
        assert [found.absent(each, ["crawl"]) for each in ("c1", "gone")] == [False, None]
        assert found.absent("gone", ["default"]) is True

    @pytest.mark.parametrize("raw", UNREADABLE.values(), ids=UNREADABLE)
    def test_one_that_was_delivered_leaves_every_queue_unclear(self, app, broker, raw):
        send(app, "crawl", "c1")
        broker.client.hset("unacked", "tag", raw)
        found = seen(app, "crawl", "default")
        assert (found.waiting, found.unread, found.incomplete_queues) == ({"c1"}, 1, {"crawl", "default"})
        assert found.absent("gone", ["default"]) is None

    def test_a_message_cut_off_behind_its_id_is_unreadable_too(self, app, broker):
        send(app, "crawl", "c1")
        broker.client.lpush("crawl", broker.client.lpop("crawl")[:-20])
        assert (seen(app, "crawl").unread, seen(app, "crawl").waiting) == (1, set())

    def test_a_key_of_another_type_is_a_refusal_and_no_broker_that_is_down(self, app, broker):
        broker.client.set("crawl", "no list")
        with Broker(app) as asked:
            found = scan_queues(asked, ["crawl", "default"])
            assert asked.error == ""
        assert found.error.startswith("the broker refused the look: ResponseError: ")
        assert (found.complete, found.depth) == (False, {"crawl": None, "default": None})


def test_what_kombu_writes_needs_no_parsing(app, broker):
    send(app, "crawl", "c1", headers={"id of": "another"}, priority=3)
    (raw,) = broker.client.lrange("crawl\x06\x163", 0, -1)
    assert queues.FAST_HEADER.match(raw)[1] == b"c1"
    with Consumer(broker.url, "crawl") as consumer:
        consumer.take()
        (raw,) = broker.client.hvals("unacked")
    assert queues.FAST_HEADER.match(raw)[1] == b"c1"


texts = st.text(max_size=5) | st.sampled_from(['", "headers": {"lang": "py", "task": "t", "id": "x"', "\\", '"', "é"])


@settings(max_examples=50, deadline=None)
@given(
    before=st.fixed_dictionaries({"body": texts, "content-encoding": texts, "content-type": texts}),
    headers=st.dictionaries(st.sampled_from(["lang", "task", "root_id", "argsrepr"]), texts),
    task_id=texts.filter(bool),
    delivered=st.booleans(),
)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("dump", [{}, {"ensure_ascii": False}, {"separators": (",", ":")}])
def test_the_id_is_the_one_that_the_whole_message_names(dump, first, before, headers, task_id, delivered):
    named = {"id": task_id, **headers} if first else {**headers, "id": task_id}
    message = {**before, "headers": named, "properties": {"headers": {"id": "another"}}}
    raw = json.dumps([message, "", "q"] if delivered else message, **dump).encode(errors="replace")
    parsed = json.loads(raw)
    assert task_id_in(raw) == (parsed[0] if delivered else parsed)["headers"]["id"]


class TestBounds:
    def test_a_queue_that_holds_too_many_is_left_unread_and_the_others_are_read(self, app, monkeypatch):
        monkeypatch.setattr(queues, "MAX_MESSAGES", 5)
        send(app, "deep", *(f"d{number}" for number in range(6)))
        send(app, "crawl", "c1")
        found = seen(app, "deep", "crawl")
        assert (found.waiting, found.depth) == ({"c1"}, {"deep": 6, "crawl": 1})
        assert (found.incomplete_queues, found.error) == (
            {"deep"},
            "deep holds 6 messages, more than are read in one look",
        )
        assert (found.absent("gone", ["crawl"]), found.absent("d1", ["deep"])) == (True, None)

    def test_when_the_time_is_up_nothing_is_absent(self, app):
        send(app, "crawl", "c1")
        found = seen(app, "crawl", "default", seconds=-1)
        assert (found.complete, found.depth["crawl"]) == (False, 1)
        assert found.error == "the time was up before everything was seen"
        assert found.absent("gone", ["default"]) is None

    def test_large_messages_are_read_few_at_a_time(self):
        assert queues.next_page_size([b"x" * 1_000] * 10) == 1_000
        assert queues.next_page_size([b"x" * 1_000_000] * 10) == 1
        assert queues.next_page_size([]) == 1_000

    def test_a_transport_that_cannot_be_looked_into_says_so(self, app):
        found = seen(project("memory://"), "crawl")
        assert found == QueueSnapshot(
            depth={"crawl": None},
            consumers={"crawl": None},
            incomplete_queues={"crawl"},
            error="the memory transport cannot be looked into",
        )

    def test_a_broker_that_refuses_leaves_everything_unknown(self, refusing_broker):
        begin = real_monotonic()
        with Broker() as asked:
            found = scan_queues(asked, ["crawl"])
            assert scan_queues(asked, ["crawl"]).error == found.error == asked.error
        assert real_monotonic() - begin < 2
        assert found.error.startswith("the broker did not answer: ")
        assert (found.depth, found.absent("gone", ["crawl"])) == ({"crawl": None}, None)

    @pytest.mark.live
    def test_a_broker_that_hangs_costs_no_more_than_the_look(self, hanging_broker):
        begin = real_monotonic()
        with Broker() as asked:
            found = scan_queues(asked, ["crawl"])
        assert real_monotonic() - begin < 4
        assert found.error.startswith("the broker did not answer: ")
        assert not found.complete

    @pytest.mark.live
    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_a_broker_that_goes_half_way_leaves_what_was_seen(self, hanging_broker, monkeypatch, end):
        hanging_broker.go_on()
        app = project(hanging_broker.url, retry_on_timeout=True)
        monkeypatch.delenv("CELERY_BROKER_WRITE_URL")
        send(app, "crawl", *(f"c{number}" for number in range(50)))

        def go(rows):
            hanging_broker.stop() if end == "stop" else hanging_broker.process.kill()
            return 1_000

        monkeypatch.setattr(queues, "next_page_size", go)
        begin = real_monotonic()
        with Broker(app) as asked:
            found = scan_queues(asked, ["crawl", "default"])
            assert asked.error == found.error
        assert real_monotonic() - begin < 3
        assert found.error.startswith("the broker did not answer: ")
        assert len(found.waiting) == queues.FIRST_PAGE
        assert [found.absent(each, ["crawl"]) for each in ("c49", "c0")] == [False, None]
        assert found.absent("gone", ["default"]) is None


@pytest.mark.live
@pytest.mark.parametrize("stay", [2_500, pytest.param(50_000, marks=pytest.mark.lane)])
def test_looks_under_churn_find_everything_that_stays_and_disturb_nothing(app, broker, stay):
    send(app, "crawl", "sample")
    sample = broker.client.rpop("crawl").decode()
    raw = lambda task_id: sample.replace("sample", task_id)  # noqa: E731
    # The oldest are taken first, so those that stay lie between them and the new ones.
    gone, stays = [[f"{word}{number}" for number in range(stay)] for word in ("old", "stay")]
    broker.client.lpush("crawl", *(raw(task_id) for task_id in (*gone, *stays)))
    sent, taken, ended = count(), [], threading.Event()

    def produce():
        with Broker(app) as asked:
            while not ended.is_set():
                asked.publish(TASK, Message(["x"], options={"queue": "crawl"}), f"new{next(sent)}")

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
        assert eventually(lambda: len(taken) > 20)
        for _ in range(20):
            found = seen(app, "crawl")
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


def test_a_queue_of_rabbitmq_whose_node_is_down_is_not_empty():
    class Channel:
        def queue_declare(self, queue, passive):
            there = f"home node 'rabbit@two' of durable queue '{queue}' in vhost '/' is down or inaccessible"
            raise NotFound(f"NOT_FOUND - {there if queue == 'down' else f'no queue {queue!r}'}")

    class Two:
        channel_errors = (NotFound,)
        channel = Channel
        maybe_close_channel = print

    sight = queues.QueueScan(["down", "none"], real_monotonic() + 60)
    queues.scan_amqp(sight, Two())
    found = sight.result()
    assert (found.incomplete_queues, found.depth) == ({"down"}, {"down": None, "none": 0})
    assert found.error.startswith("down cannot be looked into: NotFound: ")


@pytest.mark.live
@pytest.mark.xdist_group("rabbit")
class TestRabbit:
    @pytest.fixture
    def app(self, rabbit, monkeypatch):
        monkeypatch.delenv("CELERY_BROKER_WRITE_URL", raising=False)
        return project(rabbit.url)

    @pytest.fixture
    def names(self):
        """Queues that no other test has."""
        return [str(uuid4()) for _ in range(3)]

    def test_an_empty_queue_and_one_that_is_not_there_hold_no_message(self, app, rabbit, names):
        empty, none, full = names
        send(app, empty, "e1")
        with Consumer(rabbit.url, empty) as consumer:
            consumer.take()[1].ack()
            send(app, full, "f1", "f2")
            found = seen(app, empty, none, full)
        assert found.depth == {empty: 0, none: 0, full: 2}
        assert found.consumers == {empty: 1, none: 0, full: 0}
        assert (found.incomplete_queues, found.waiting, found.unacked) == ({full}, set(), set())
        assert found.error == f"{full} holds 2 messages, which RabbitMQ shows to consumers only"
        assert found.absent("e1", [empty]) is found.absent("e1", [empty, none]) is True
        assert found.absent("f1", [full]) is found.absent("e1", [empty, full]) is None

    def test_nothing_is_created_and_nothing_is_redelivered(self, app, rabbit, names):
        send(app, names[0], "r1")
        for _ in range(3):
            seen(app, *names)
        assert seen(app, *names).depth == {names[0]: 1, names[1]: 0, names[2]: 0}
        with Consumer(rabbit.url, names[0]) as consumer:
            task_id, message = consumer.take()
            assert (task_id, message.delivery_info["redelivered"]) == ("r1", False)
            message.ack()

    def test_a_queue_that_it_refuses_to_show_is_unclear_and_the_others_are_not(self, app, rabbit, names):
        with Connection(rabbit.url) as other:
            other.channel().queue_declare(names[0], exclusive=True)
            with Broker(app) as asked:
                found = scan_queues(asked, names)
                assert asked.error == ""
        assert (found.incomplete_queues, found.depth[names[0]]) == ({names[0]}, None)
        assert found.error.startswith(f"{names[0]} cannot be looked into: ResourceLocked: ")
        assert found.absent("gone", names[1:]) is True

    def test_a_broker_that_hangs_leaves_everything_unknown(self, app, rabbit, names):
        asked = Broker(app)
        assert scan_queues(asked, names).complete
        with rabbit.stopped(), asked:
            begin = real_monotonic()
            found = scan_queues(asked, names)
            assert real_monotonic() - begin < 4
        assert found.error.startswith("the broker did not answer: ")
        assert found.absent("gone", names) is None
