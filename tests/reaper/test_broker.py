"""The broker, asked within bounds: what arrives where, and how soon a dead one is given up."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from celery import Celery
from freezegun.api import real_monotonic

from reaper.adapters import Message
from reaper.broker.connection import Broker
from reaper.exceptions import BrokerUnavailable
from tests.servers import Revoke, eventually

TASK = "apps.sources.tasks.crawl_source"


@contextmanager
def within(seconds):
    """Fail when the block takes longer."""
    begin = real_monotonic()
    yield
    took = real_monotonic() - begin
    assert took <= seconds, f"took {took:.1f} s"


def test_a_task_lands_in_its_kinds_queue_under_the_given_id(broker):
    with Broker() as asked:
        asked.publish(TASK, Message(["s"], {"crawl_job_id": "j"}), "t1")
        asked.publish(TASK, Message(), "t2")
    assert broker.waiting("crawl") == [("t1", TASK, ["s"], {"crawl_job_id": "j"}), ("t2", TASK, [], {})]
    assert broker.revokes() == []


def test_the_message_chooses_its_queue_but_not_its_id(broker):
    with Broker() as asked:
        asked.publish(TASK, Message(options={"queue": "slow", "task_id": "its own"}), "t1")
    assert broker.ids("slow") == ["t1"]
    assert broker.ids("crawl") == []


def test_many_revokes_are_one_broadcast(broker):
    with Broker() as asked:
        asked.revoke(["t1", "t2"])
        asked.revoke(["t3"], terminate=True)
    assert broker.revokes() == [Revoke(["t1", "t2"], False, None), Revoke(["t3"], True, "SIGKILL")]


def test_a_revoke_goes_to_the_workers_that_it_names(broker):
    with Broker() as asked:
        asked.revoke(["t1"], destination=["one@host", "two@host"])
        asked.revoke(["t2"], terminate=True, destination=("one@host",))
    assert broker.revokes() == [
        Revoke(["t1"], False, None, ["one@host", "two@host"]),
        Revoke(["t2"], True, "SIGKILL", ["one@host"]),
    ]


class Mute:
    """An argument that no serializer knows."""


# What is wrong, and how: as an argument, or as an option.
UNSENDABLE = {
    "an argument": Message([Mute()]),
    "a keyword argument": Message([], {"x": Mute()}),
    "arguments that are none": Message("abc"),
    "a header": Message(options={"headers": {"x": Mute()}}),
    "a serializer": Message(options={"serializer": "nope"}),
    "a compression": Message(options={"compression": "nope"}),
    "a countdown": Message(options={"countdown": "soon"}),
    "an expiry": Message(options={"expires": Mute()}),
}


@pytest.mark.parametrize("message", UNSENDABLE.values(), ids=UNSENDABLE)
def test_a_message_that_no_broker_could_take_is_its_own_fault_only(broker, message):
    with Broker() as asked:
        with pytest.raises(ValueError, match=r"\w+: .+"):
            asked.publish(TASK, message, "t1")
        assert asked.error == ""
        asked.publish(TASK, Message(), "t2")
    assert broker.ids() == ["t2"]


@pytest.mark.parametrize("url", ["nobody-knows://host", "redis://127.0.0.1/no number"])
def test_an_address_that_makes_no_sense_is_the_brokers_fault(url, monkeypatch):
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", url)
    with Broker() as asked:
        with pytest.raises(BrokerUnavailable):
            asked.publish(TASK, Message(), "t1")
        with pytest.raises(BrokerUnavailable):
            asked.revoke(["t1"])


def test_a_question_is_answered_over_the_sweeps_connection(broker):
    with Broker() as asked:
        assert asked.ask(lambda connection: connection.transport.driver_type) == "redis"
        with pytest.raises(ValueError, match="KeyError"):
            asked.ask(lambda connection: {}["nothing"])
        assert asked.error == ""


def test_a_broker_that_did_not_answer_is_not_given_messages_either(refusing_broker):
    with within(3), Broker() as asked:
        with pytest.raises(BrokerUnavailable, match="the broker did not answer: "):
            asked.ask(lambda connection: connection.channel())
        with within(1), pytest.raises(BrokerUnavailable, match="the broker did not answer: "):
            asked.publish(TASK, Message(), "t1")


def test_one_connection_serves_the_whole_sweep_and_is_closed_after_it(broker):
    def connections():
        return int(broker.client.info("clients")["connected_clients"])

    before = connections()
    with Broker() as asked:
        for number in range(20):
            asked.publish(TASK, Message(), f"t{number}")
            asked.revoke([f"t{number}"])
        assert connections() - before <= 3
    assert eventually(lambda: connections() <= before)


def test_a_broker_that_is_not_needed_is_not_asked(refusing_broker):
    with within(1), Broker() as asked:
        assert asked.error == ""


@pytest.mark.parametrize("first", ["publish", "revoke"])
def test_a_refusing_broker_is_given_up_at_once(refusing_broker, first):
    with within(3), Broker() as asked:
        with pytest.raises(BrokerUnavailable) as told:
            asked.publish(TASK, Message(), "t1") if first == "publish" else asked.revoke(["t1"])
        assert str(told.value).startswith("the broker did not take a message: ")
        with within(1), pytest.raises(BrokerUnavailable, match="did not take"):
            asked.revoke(["t1"])
        with within(1), pytest.raises(BrokerUnavailable, match="did not take"):
            asked.publish(TASK, Message(), "t2")


@pytest.mark.live
@pytest.mark.parametrize("first", ["publish", "revoke"])
def test_a_hanging_broker_is_given_up_within_seconds_and_the_second_ask_answers_at_once(hanging_broker, first):
    with within(8), Broker() as asked:
        with within(6), pytest.raises(BrokerUnavailable):
            asked.publish(TASK, Message(), "t1") if first == "publish" else asked.revoke(["t1"])
        with within(1), pytest.raises(BrokerUnavailable):
            asked.publish(TASK, Message(), "t2")


@pytest.mark.live
@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("first", ["publish", "revoke"])
@pytest.mark.parametrize("then", ["publish", "revoke"])
def test_a_broker_that_goes_in_mid_sweep_is_given_up_within_seconds(hanging_broker, end, first, then):
    def ask(what, task_id):
        asked.publish(TASK, Message(), task_id) if what == "publish" else asked.revoke([task_id])

    hanging_broker.go_on()
    with within(8), Broker() as asked:
        ask(first, "t1")
        hanging_broker.stop() if end == "stop" else hanging_broker.process.kill()
        with within(6), pytest.raises(BrokerUnavailable):
            ask(then, "t2")
        with within(1), pytest.raises(BrokerUnavailable):
            ask(first, "t3")


@pytest.mark.live
def test_the_next_sweep_finds_a_broker_that_is_back(hanging_broker):
    with Broker() as asked, pytest.raises(BrokerUnavailable):
        asked.publish(TASK, Message(), "t1")
    hanging_broker.go_on()
    with Broker() as asked:
        asked.publish(TASK, Message(), "t2")
        asked.revoke(["t1"])
    assert "t2" in hanging_broker.ids()


def celery_on(server):
    app = Celery("elsewhere", set_as_current=False)
    app.conf.broker_write_url = server.url
    return app


WORKER = """
import os
from pathlib import Path
from celery import Celery

app = Celery("little", broker=os.environ["LITTLE_BROKER"], set_as_current=False)
app.conf.update(task_default_queue="little", broker_connection_retry_on_startup=True)

@app.task(name="little.note")
def note(word):
    with open(os.environ["LITTLE_FILE"], "a") as file:
        file.write(word + "\\n")
"""


@pytest.mark.live
def test_a_real_worker_discards_what_was_revoked_and_does_what_was_published(broker, tmp_path, monkeypatch):
    monkeypatch.delenv("CELERY_BROKER_WRITE_URL")
    (tmp_path / "little.py").write_text(WORKER)
    noted = tmp_path / "noted"
    noted.touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CELERY_", "DJANGO_"))}
    environment |= {"LITTLE_BROKER": broker.url, "LITTLE_FILE": str(noted), "PYTHONPATH": str(tmp_path)}
    words = [sys.executable, "-m", "celery", "-A", "little", "worker", "-P", "solo", "-Q", "little", "-l", "INFO"]
    app, ids = celery_on(broker), [str(uuid4()) for _ in range(3)]
    with Path(tmp_path, "log").open("wb") as log:
        worker = subprocess.Popen(words, env=environment, stdout=log, stderr=log, cwd=tmp_path)
    try:
        said = lambda: Path(tmp_path, "log").read_text()  # noqa: E731
        assert eventually(lambda: "ready." in said()), said()
        with Broker(app) as asked:
            asked.revoke([ids[0], ids[1]])
            assert eventually(lambda: said().count("revoked") >= 1), said()
            for task_id, word in zip(ids, ("never", "nor this", "done"), strict=True):
                asked.publish("little.note", Message([word], options={"queue": "little"}), task_id)
        assert eventually(lambda: noted.read_text()), said()
        assert noted.read_text() == "done\n"
    finally:
        worker.kill()
        worker.wait()


@pytest.mark.live
@pytest.mark.xdist_group("rabbit")
class TestRabbit:
    @pytest.fixture
    def app(self, rabbit, monkeypatch):
        monkeypatch.delenv("CELERY_BROKER_WRITE_URL", raising=False)
        return celery_on(rabbit)

    @pytest.mark.parametrize("message", [*UNSENDABLE.values(), Message(options={"priority": "high"})])
    def test_a_message_that_no_broker_could_take_is_its_own_fault_only(self, app, message):
        queue = str(uuid4())
        with Broker(app) as asked:
            with pytest.raises(ValueError, match=r"\w+: .+"):
                asked.publish("little.hold", message, "t1")
            asked.publish("little.hold", Message(options={"queue": queue}), "t2")
            found = asked.ask(lambda connection: connection.channel().queue_declare(queue, passive=True))
        assert found.message_count == 1

    @pytest.mark.parametrize("then", ["publish", "revoke"])
    def test_a_broker_that_goes_in_mid_sweep_is_given_up_within_seconds(self, app, rabbit, then):
        asked = Broker(app)
        asked.publish("little.hold", Message(), "t1")
        with rabbit.stopped(), within(8), asked:
            with within(4), pytest.raises(BrokerUnavailable):
                asked.publish("little.hold", Message(), "t2") if then == "publish" else asked.revoke(["t1"])
            with within(1), pytest.raises(BrokerUnavailable):
                asked.publish("little.hold", Message(), "t3")
