"""Inspecting the workers: what they say that they hold, what silence costs, and that nothing is left behind."""

import base64
import json
import signal
import threading
from contextlib import ExitStack, contextmanager
from uuid import uuid4

import pytest
from freezegun.api import real_monotonic
from kombu import Connection
from kombu.pidbox import Mailbox

from reaper.adapters import Message
from reaper.broker.connection import Broker
from reaper.workers.inspect import InspectionResult, inspect_workers
from tests import minimal_project, servers
from tests.processes import halt, wait_until
from tests.reaper.broker.messages import TASK, celery_app

KINDS = {"active": [], "reserved": [], "scheduled": [], "query_task": {}}


@pytest.fixture
def app(broker, monkeypatch):
    monkeypatch.delenv("CELERY_BROKER_WRITE_URL")
    return celery_app(broker.url)


def inspect(app, *ids, expected=("one@test",), seconds=2.0):
    with Broker(app) as broker:
        return inspect_workers(broker, ids, expected, seconds)


class Node:
    """A node on the workers' control channel with one answer per command; an exception is returned as an error."""

    def __init__(self, url, name, **answers):
        self.connection, self.ended = Connection(url), threading.Event()
        handlers = {kind: self.saying(answers.get(kind, KINDS[kind])) for kind in KINDS}
        node = Mailbox("celery", type="fanout")(self.connection).Node(name, handlers=handlers)
        node.channel = self.connection.channel()
        self.consumer = node.listen()
        self.thread = threading.Thread(target=self.serve)

    def saying(self, answer):
        def handler(state, **arguments):
            if isinstance(answer, Exception):
                raise answer
            return answer

        return handler

    def serve(self):
        while not self.ended.is_set():
            try:
                self.connection.drain_events(timeout=0.1)
            except TimeoutError:
                pass

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join(10)
        self.connection.close()


@contextmanager
def nodes(broker, *made):
    """Have these nodes listen on the control channel."""
    with ExitStack() as stack:
        for name, answers in made:
            stack.enter_context(Node(broker.url, name, **answers))
        # The tests' own listener is one of them.
        ears = lambda: sum(int(client["psub"]) for client in broker.client.client_list())  # noqa: E731
        wait_until(lambda: ears() == 1 + len(made), what="the nodes listen")
        yield


class TestReplies:
    def test_reply_to_each_command_names_holders(self, app, broker):
        replies = {
            "active": [{"id": "a1"}, {"id": "a2"}],
            "reserved": [{"id": "r1"}],
            "scheduled": [{"eta": "soon", "priority": 6, "request": {"id": "s1"}}],
            "query_task": {"q1": ["reserved", {"id": "q1"}], "q2": ["active", {}], "q3": ["ready", {}]},
        }
        with nodes(broker, ("one@test", replies)):
            found = inspect(app, "q1", "q2", "q3")
        assert found.holders == dict.fromkeys(["a1", "a2", "r1", "s1", "q1", "q2", "q3"], "one@test")
        assert found.active == dict.fromkeys(["a1", "a2", "q2"], "one@test")
        assert found.responded_fully == {"one@test"}
        assert found.duplicate_nodes == set()
        assert found.malformed == 0
        assert found.error == ""

    def test_holder_is_the_executing_worker_before_a_reserving_one(self, app, broker):
        made = [("one@test", {"reserved": [{"id": "t1"}]}), ("two@test", {"active": [{"id": "t1"}]})]
        for order in (made, made[::-1]):
            with nodes(broker, *order):
                found = inspect(app, expected=["one@test", "two@test"])
            assert found.holders == found.active == {"t1": "two@test"}

    def test_two_workers_of_one_name_are_duplicates(self, app, broker):
        with nodes(broker, ("one@test", {"active": [{"id": "t1"}]}), ("one@test", {}), ("two@test", {})):
            found = inspect(app, expected=["one@test", "one@test", "two@test"])
        assert found.responded_fully == {"one@test", "two@test"}
        assert found.duplicate_nodes == {"one@test"}
        assert found.holders == {"t1": "one@test"}

    @pytest.mark.parametrize("kind", KINDS)
    def test_malformed_reply_is_counted_and_is_no_full_response(self, app, broker, kind):
        garbage = [None, 5, "text", {"ok": "pong"}, [1], [{}], [{"request": 1}], [{"id": []}], ValueError("boom")]
        held = {"active": [{"id": "t1"}], "reserved": [{"id": "t2"}]}
        odd = [(f"odd{number}@test", {**held, kind: each}) for number, each in enumerate(garbage)]
        with nodes(broker, *odd, ("one@test", {})):
            found = inspect(app, expected=["nobody@test"], seconds=1.0)
        assert found.responded_fully == {"one@test"}
        assert found.malformed == len(garbage)
        assert found.error == ""
        assert found.holders.keys() == {"active": {"t2"}, "reserved": {"t1"}}.get(kind, {"t1", "t2"})

    def test_undecodable_reply_is_counted_and_not_raised(self, app, broker):
        methods = []

        def disturb():
            """Answer every command with a reply that cannot be decoded."""
            while len(methods) < 4:
                message = broker.listener.get_message(timeout=5)
                body = json_of(message)
                methods.append(body["method"])
                key = f"{body['reply_to']['routing_key']}.{body['reply_to']['exchange']}"
                broker.client.lpush(key, garbled(body["ticket"]))

        thread = threading.Thread(target=disturb)
        thread.start()
        found = inspect(app, seconds=1.0)
        thread.join()
        assert sorted(methods) == sorted(KINDS)
        assert found.malformed == 4
        assert found.responded_fully == set()
        assert found.holders == {}

    def test_inspection_without_workers_is_no_error(self, app):
        begin = real_monotonic()
        found = inspect(app, "t1", seconds=0.3)
        assert 0.3 <= real_monotonic() - begin < 1.5
        assert found == InspectionResult()

    def test_inspection_ends_when_all_expected_nodes_have_answered(self, app, broker):
        with nodes(broker, ("one@test", {}), ("two@test", {})):
            took = []
            for expected in (["one@test", "two@test"], ["one@test"], [], ["one@test", "one@test"], ["three@test"]):
                begin = real_monotonic()
                found = inspect(app, expected=expected, seconds=1.0)
                took.append(real_monotonic() - begin)
                assert expected == ["one@test"] or found.responded_fully == {"one@test", "two@test"}
        assert max(took[:2]) < 0.9 <= min(took[2:])

    def test_refusing_broker_differs_from_no_workers(self, refusing_broker):
        with Broker() as link:
            found = inspect_workers(link, ["t1"], ["one@test"])
            assert found.error == link.error
        assert found.error.startswith("the broker did not answer: ")
        assert found == InspectionResult(error=found.error)

    @pytest.mark.live
    @pytest.mark.parametrize("half_way", [False, True])
    def test_hanging_broker_ends_the_inspection_within_6s(self, hanging_broker, monkeypatch, half_way):
        monkeypatch.delenv("CELERY_BROKER_WRITE_URL")
        link = Broker(celery_app(hanging_broker.url))
        if half_way:
            hanging_broker.resume()
            link.revoke(["t1"])
            hanging_broker.stop()
        begin = real_monotonic()
        with link:
            found = inspect_workers(link, ["t1"], ["one@test"])
            assert real_monotonic() - begin < 4
        assert real_monotonic() - begin < 6
        assert found.error.startswith("the broker did not answer: ")


def json_of(message):
    """The command in a control message, as it was broadcast."""
    return json.loads(base64.b64decode(json.loads(message["data"])["body"]))


def garbled(ticket):
    """A reply whose body does not match its content type."""
    properties = {"delivery_tag": "1", "delivery_info": {"exchange": "", "routing_key": ""}, "delivery_mode": 1}
    message = {"body": "{", "headers": {"ticket": ticket}, "properties": properties}
    return json.dumps({**message, "content-type": "application/json", "content-encoding": "utf-8"})


@pytest.fixture(scope="module")
def crew(tmp_path_factory):
    """A Redis and three workers for this module."""
    server = servers.RedisServer()
    try:
        with minimal_project.workers(
            server.url, tmp_path_factory.mktemp("crew"), one="threads", two="threads", solo="solo"
        ) as workers:
            yield server, workers
    finally:
        server.end()


ALL = {"one@test", "two@test", "solo@test"}


@pytest.mark.live
@pytest.mark.xdist_group("crew")
class TestWorkers:
    @pytest.fixture
    def app(self, crew, monkeypatch):
        monkeypatch.delenv("CELERY_BROKER_WRITE_URL", raising=False)
        app = celery_app(crew[0].url)
        wait_until(lambda: inspect(app, expected=ALL).responded_fully == ALL, what="all workers answer")
        return app

    @pytest.fixture
    def hold(self, app, tmp_path):
        """A function that sends a worker a task to hold until the test ends."""
        release = tmp_path / "release"

        def give(name, task_id, **options):
            with Broker(app) as link:
                link.publish(TASK, Message([str(release)], options={"queue": name, **options}), task_id)

        yield give
        release.touch()
        wait_until(lambda: not inspect(app, expected=ALL).active, what="the tasks have ended")

    def test_real_workers_answer_at_once_and_leave_nothing_behind(self, app, crew):
        client = crew[0].client
        keys, connected = set(client.keys()), client.info("clients")["connected_clients"]
        begin = real_monotonic()
        found = inspect(app, "t1", expected=ALL, seconds=20.0)
        assert real_monotonic() - begin < 10
        assert found.responded_fully == ALL
        assert found.active == {}
        assert found.duplicate_nodes == set()
        assert found.malformed == 0
        assert found.error == ""
        assert set(client.keys()) <= keys, "an earlier test's messages may still go"
        assert client.smembers("_kombu.binding.reply.celery.pidbox") == set()
        wait_until(lambda: client.info("clients")["connected_clients"] <= connected)

    def test_executed_reserved_and_scheduled_tasks_are_held(self, app, hold):
        active, reserved, later = (str(uuid4()) for _ in range(3))
        hold("one", later, countdown=300)
        wait_until(lambda: later in inspect(app, expected=ALL).holders)
        hold("one", active)
        wait_until(lambda: active in inspect(app, expected=ALL).active)
        hold("one", reserved)
        wait_until(lambda: reserved in inspect(app, expected=ALL).holders)
        found = inspect(app, reserved, "gone", expected=ALL)
        assert found.holders.items() >= dict.fromkeys([active, reserved, later], "one@test").items()
        assert "gone" not in found.holders
        assert found.active == {active: "one@test"}

    def test_busy_solo_and_stopped_workers_are_waited_for_only_once(self, app, crew, hold):
        server, workers = crew
        task_id, others = str(uuid4()), ALL - {"solo@test"}
        hold("solo", task_id)
        wait_until(
            lambda: (
                not server.client.llen("solo") and inspect(app, expected=others, seconds=2.0).responded_fully == others
            )
        )
        halt(workers["two"].pid)
        try:
            begin = real_monotonic()
            found = inspect(app, task_id, expected=ALL, seconds=3.0)
            assert 3.0 <= real_monotonic() - begin < 5.5
        finally:
            workers["two"].send_signal(signal.SIGCONT)
        assert found.responded_fully == {"one@test"}
        assert found.active == {}
        assert found.error == ""
        assert task_id not in found.holders

    def test_late_replies_leave_no_message_behind(self, app, crew):
        server, workers = crew
        keys = set(server.client.keys())
        halt(workers["two"].pid)
        try:
            found = inspect(app, expected=ALL, seconds=2.0)
        finally:
            workers["two"].send_signal(signal.SIGCONT)
        assert found.responded_fully == ALL - {"two@test"}
        wait_until(lambda: inspect(app, expected=ALL).responded_fully == ALL)
        assert set(server.client.keys()) <= keys, "an earlier test's messages may still go"


@pytest.mark.live
@pytest.mark.xdist_group("rabbit")
class TestRabbit:
    @pytest.fixture
    def app(self, rabbit, monkeypatch):
        monkeypatch.delenv("CELERY_BROKER_WRITE_URL", raising=False)
        return celery_app(rabbit.url)

    def test_rabbitmq_worker_answers_and_only_the_named_is_terminated(self, app, rabbit, tmp_path):
        task_id = str(uuid4())
        with minimal_project.workers(rabbit.url, tmp_path, prey="prefork"):
            with Broker(app) as link:
                link.publish(TASK, Message([str(tmp_path / "release")], options={"queue": "prey"}), task_id)
            wait_until(lambda: inspect(app, task_id, expected=["prey@test"]).active == {task_id: "prey@test"})
            with Broker(app) as link:
                link.revoke([task_id], terminate=True, destination=["another@test"])
                assert inspect_workers(link, [task_id], ["prey@test"]).active == {task_id: "prey@test"}
                link.revoke([task_id], terminate=True, destination=["prey@test"])
            prey = frozenset({"prey@test"})
            idle = InspectionResult(responded_fully=prey, responded=prey)
            wait_until(lambda: inspect(app, task_id, expected=["prey@test"]) == idle)

    def test_hanging_rabbitmq_differs_from_no_workers(self, app, rabbit):
        assert inspect(app, seconds=0.1) == InspectionResult()
        link = Broker(app)
        link.revoke(["t1"])
        with rabbit.stopped(), link:
            begin = real_monotonic()
            found = inspect_workers(link, ["t1"], ["one@test"])
            # Three waits of 2 s: for the command, the queue's deletion and the channel's end.
            assert real_monotonic() - begin < 10
        assert found.error.startswith("the broker did not answer: ")
