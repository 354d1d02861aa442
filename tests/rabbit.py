"""A RabbitMQ for the tests, with its own node, ports, port mapper and folder. Only this host can reach it."""

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from kombu import Connection

from tests.processes import end, free_port, halt, start, wait_until

# Not the command on the PATH, which is for the system's service: it uses the folder and user of that one.
PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


class RabbitServer:
    """A rabbitmq-server process."""

    def __init__(self, folder: Path) -> None:
        self.port, mapper = free_port(), free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self.log = folder / "rabbit.log"
        (folder / "plugins").write_text("[].")
        environment = {
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"tests-{os.getpid()}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "none"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        # The node would start a mapper that outlives it.
        words = ["epmd", "-port", mapper, "-address", "127.0.0.1"]
        self.processes = [start(*words, log=self.log, environment=environment)]
        self.processes.append(start(PROGRAM, log=self.log, environment=environment))

    def answers(self) -> bool:
        """Return whether it serves."""
        assert self.processes[-1].poll() is None, self.log.read_text()
        with contextlib.suppress(OSError), Connection(self.url, connect_timeout=5) as connection:
            return bool(connection.connect())
        return False

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Have it accept connections and answer nothing."""
        node = psutil.Process(self.processes[-1].pid)
        pids = [node.pid, *(child.pid for child in node.children(recursive=True))]
        halt(*pids)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


def is_installed() -> bool:
    """Return whether this host has RabbitMQ."""
    return PROGRAM.exists() and shutil.which("epmd") is not None


@contextmanager
def rabbit_server() -> Iterator[RabbitServer]:
    """A RabbitMQ that serves."""
    with tempfile.TemporaryDirectory(prefix="rabbit-") as folder:
        server = RabbitServer(Path(folder))
        try:
            wait_until(server.answers, what="RabbitMQ answers")
            yield server
        finally:
            # Nobody reads the files of a killed node again, and killing takes no time.
            for process in reversed(server.processes):
                os.killpg(process.pid, signal.SIGKILL)
                end(process)
