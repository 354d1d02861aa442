"""The connection to the broker: what arrives where, and how soon a dead broker is given up."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from freezegun.api import real_monotonic

from reaper.adapters import Message
from reaper.broker.connection import Broker
from reaper.exceptions import BrokerUnavailable
from tests.processes import wait_until
from tests.reaper.broker.messages import TASK as HOLD
from tests.reaper.broker.messages import celery_app
from tests.servers import Revoke

TASK = "apps.sources.tasks.crawl_source"


@contextmanager
def within(seconds):
    """Fail when the block takes longer."""
    begin = real_monotonic()
    yield
    took = real_monotonic() - begin
    assert took <= seconds, f"took {took:.1f} s"


def test_publish_sends_to_the_kinds_queue_under_the_given_id(broker):
    with Broker() as link:
        link.publish(TASK, Message(["s"], {"crawl_job_id": "j"}), "t1")
        link.publish(TASK, Message(), "t2")
    assert broker.waiting("crawl") == [("t1", TASK, ["s"], {"crawl_job_id": "j"}), ("t2", TASK, [], {})]
    assert broker.revokes() == []


def test_message_options_choose_the_queue_but_not_the_id(broker):
    with Broker() as link:
        link.publish(TASK, Message(options={"queue": "slow", "task_id": "its own"}), "t1")
    assert broker.ids("slow") == ["t1"]
    assert broker.ids("crawl") == []


def test_revoke_of_many_tasks_is_one_broadcast(broker):
    with Broker() as link:
        link.revoke(["t1", "t2"])
        link.revoke(["t3"], terminate=True)
    assert broker.revokes() == [Revoke(["t1", "t2"], False, None), Revoke(["t3"], True, "SIGKILL")]


def test_revoke_goes_to_the_named_workers(broker):
    with Broker() as link:
        link.revoke(["t1"], destination=["one@host", "two@host"])
        link.revoke(["t2"], terminate=True, destination=("one@host",))
    assert broker.revokes() == [
        Revoke(["t1"], False, None, ["one@host", "two@host"]),
        Revoke(["t2"], True, "SIGKILL", ["one@host"]),
    ]


class Mute:
    """An argument that no serializer knows."""


# What is wrong with a message: an argument or an option.
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
def test_unsendable_message_raises_value_error_without_broker_failure(broker, message):
    with Broker() as link:
        with pytest.raises(ValueError, match=r"\w+: .+"):
            link.publish(TASK, message, "t1")
        assert link.error == ""
        link.publish(TASK, Message(), "t2")
    assert broker.ids() == ["t2"]


@pytest.mark.parametrize("url", ["nobody-knows://host", "redis://127.0.0.1/no number"])
def test_invalid_broker_address_raises_broker_unavailable(url, monkeypatch):
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", url)
    with Broker() as link:
        with pytest.raises(BrokerUnavailable):
            link.publish(TASK, Message(), "t1")
        with pytest.raises(BrokerUnavailable):
            link.revoke(["t1"])


def test_call_passes_the_sweeps_connection(broker):
    with Broker() as link:
        assert link.call(lambda connection: connection.transport.driver_type) == "redis"
        with pytest.raises(ValueError, match="KeyError"):
            link.call(lambda connection: {}["nothing"])
        assert link.error == ""


def test_publish_after_a_failed_call_fails_at_once(refusing_broker):
    with within(3), Broker() as link:
        with pytest.raises(BrokerUnavailable, match="the broker did not answer: "):
            link.call(lambda connection: connection.channel())
        with within(1), pytest.raises(BrokerUnavailable, match="the broker did not answer: "):
            link.publish(TASK, Message(), "t1")


def test_one_connection_serves_the_whole_sweep_and_is_closed(broker):
    def connections():
        return int(broker.client.info("clients")["connected_clients"])

    before = connections()
    with Broker() as link:
        for number in range(20):
            link.publish(TASK, Message(), f"t{number}")
            link.revoke([f"t{number}"])
        assert connections() - before <= 3
    wait_until(lambda: connections() <= before)


def test_unused_broker_is_not_connected(refusing_broker):
    with within(1), Broker() as link:
        assert link.error == ""


@pytest.mark.parametrize("first", ["publish", "revoke"])
def test_refusing_broker_is_abandoned_at_once(refusing_broker, first):
    with within(3), Broker() as link:
        with pytest.raises(BrokerUnavailable) as raised:
            link.publish(TASK, Message(), "t1") if first == "publish" else link.revoke(["t1"])
        assert str(raised.value).startswith("publishing to the broker failed: ")
        with within(1), pytest.raises(BrokerUnavailable, match="publishing to the broker failed"):
            link.revoke(["t1"])
        with within(1), pytest.raises(BrokerUnavailable, match="publishing to the broker failed"):
            link.publish(TASK, Message(), "t2")


@pytest.mark.live
@pytest.mark.parametrize("first", ["publish", "revoke"])
def test_hanging_broker_is_abandoned_within_6s_and_then_at_once(hanging_broker, first):
    with within(8), Broker() as link:
        with within(6), pytest.raises(BrokerUnavailable):
            link.publish(TASK, Message(), "t1") if first == "publish" else link.revoke(["t1"])
        with within(1), pytest.raises(BrokerUnavailable):
            link.publish(TASK, Message(), "t2")


@pytest.mark.live
@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("first", ["publish", "revoke"])
@pytest.mark.parametrize("then", ["publish", "revoke"])
def test_broker_lost_in_mid_sweep_is_abandoned_within_6s(hanging_broker, end, first, then):
    def call(what, task_id):
        link.publish(TASK, Message(), task_id) if what == "publish" else link.revoke([task_id])

    hanging_broker.resume()
    with within(8), Broker() as link:
        call(first, "t1")
        hanging_broker.stop() if end == "stop" else hanging_broker.process.kill()
        with within(6), pytest.raises(BrokerUnavailable):
            call(then, "t2")
        with within(1), pytest.raises(BrokerUnavailable):
            call(first, "t3")


@pytest.mark.live
def test_next_sweep_reaches_a_broker_that_is_back(hanging_broker):
    with Broker() as link, pytest.raises(BrokerUnavailable):
        link.publish(TASK, Message(), "t1")
    hanging_broker.resume()
    with Broker() as link:
        link.publish(TASK, Message(), "t2")
        link.revoke(["t1"])
    assert "t2" in hanging_broker.ids()


WORKER = """
import os
from pathlib import Path
from celery import Celery

app = Celery("noting", broker=os.environ["NOTING_BROKER"], set_as_current=False)
app.conf.update(task_default_queue="noting", broker_connection_retry_on_startup=True)

@app.task(name="noting.note")
def note(word):
    with open(os.environ["NOTING_FILE"], "a") as file:
        file.write(word + "\\n")
"""


@pytest.mark.live
def test_real_worker_discards_revoked_tasks_and_runs_published_ones(broker, tmp_path, monkeypatch):
    monkeypatch.delenv("CELERY_BROKER_WRITE_URL")
    (tmp_path / "noting.py").write_text(WORKER)
    noted = tmp_path / "noted"
    noted.touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CELERY_", "DJANGO_"))}
    environment |= {"NOTING_BROKER": broker.url, "NOTING_FILE": str(noted), "PYTHONPATH": str(tmp_path)}
    words = [sys.executable, "-m", "celery", "-A", "noting", "worker", "-P", "solo", "-Q", "noting", "-l", "INFO"]
    app, ids = celery_app(broker.url), [str(uuid4()) for _ in range(3)]
    with Path(tmp_path, "log").open("wb") as log:
        worker = subprocess.Popen(words, env=environment, stdout=log, stderr=log, cwd=tmp_path)
    try:
        log = lambda: Path(tmp_path, "log").read_text()  # noqa: E731
        wait_until(lambda: "ready." in log(), what="the worker does it, see its log")
        with Broker(app) as link:
            link.revoke([ids[0], ids[1]])
            wait_until(lambda: log().count("revoked") >= 1, what="the worker does it, see its log")
            for task_id, word in zip(ids, ("never", "nor this", "done"), strict=True):
                link.publish("noting.note", Message([word], options={"queue": "noting"}), task_id)
        wait_until(lambda: noted.read_text(), what="the worker does it, see its log")
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
        return celery_app(rabbit.url)

    @pytest.mark.parametrize("message", [*UNSENDABLE.values(), Message(options={"priority": "high"})])
    def test_unsendable_message_raises_value_error_without_broker_failure(self, app, message):
        queue = str(uuid4())
        with Broker(app) as link:
            with pytest.raises(ValueError, match=r"\w+: .+"):
                link.publish(HOLD, message, "t1")
            link.publish(HOLD, Message(options={"queue": queue}), "t2")
            found = link.call(lambda connection: connection.channel().queue_declare(queue, passive=True))
        assert found.message_count == 1

    @pytest.mark.parametrize("then", ["publish", "revoke"])
    def test_broker_lost_in_mid_sweep_is_abandoned_within_6s(self, app, rabbit, then):
        link = Broker(app)
        link.publish(HOLD, Message(), "t1")
        with rabbit.stopped(), within(8), link:
            with within(4), pytest.raises(BrokerUnavailable):
                link.publish(HOLD, Message(), "t2") if then == "publish" else link.revoke(["t1"])
            with within(1), pytest.raises(BrokerUnavailable):
                link.publish(HOLD, Message(), "t3")
