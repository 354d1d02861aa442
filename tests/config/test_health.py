"""The two probes when all is well, and when a server is absent, hangs or lacks migrations."""

import socket
import time

import pytest
from django.db import connection

from config import health
from tests import processes

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(
        connection.vendor != "postgresql", reason="a second connection to SQLite's test database is empty"
    ),
]
WELL = {"database": "", "broker": ""}
# A host that ALLOWED_HOSTS does not have.
PROBER = {"HTTP_HOST": "10.0.0.7:8000"}


@pytest.fixture(autouse=True)
def _no_earlier_probes(monkeypatch):
    monkeypatch.setattr(health.TimedProbe, "asked", {})


@pytest.fixture(scope="module")
def broker():
    with processes.redis_server() as server, processes.broker_at(server.url):
        yield server


@pytest.fixture
def black_hole():
    """The port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def database(monkeypatch):
    """A function that changes where the probe's own connection goes to."""

    def change(**values):
        monkeypatch.setitem(connection.settings_dict, "OPTIONS", {"connect_timeout": 5})
        for name, value in values.items():
            monkeypatch.setitem(connection.settings_dict, name, value)

    return change


def readyz(client):
    answer = client.get("/readyz", **PROBER)
    return answer.status_code, answer.content.decode()


def test_probe_with_unknown_host_and_without_tls_is_answered(client, broker, settings):
    settings.SECURE_SSL_REDIRECT = True
    settings.ALLOWED_HOSTS = ["crawler.example"]
    assert readyz(client) == (200, "ready\n")
    answer = client.get("/healthz", **PROBER)
    assert answer.status_code == 200
    assert answer.content == b"ok\n"
    assert answer["Cache-Control"] == "no-store"
    assert client.get("/", **PROBER).status_code == 400


def test_probe_without_servers_reports_live_and_not_ready(client, database, settings):
    database(HOST="127.0.0.1", PORT=processes.free_port())
    with processes.broker_at(f"redis://:s3cret@127.0.0.1:{processes.free_port()}/0"):
        assert readyz(client) == (503, "The database cannot be reached.\nThe broker cannot be reached.\n")
        assert client.get("/healthz", **PROBER).status_code == 200


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_readiness_with_hanging_servers_answers_in_time(client, database, black_hole, scheme):
    database(HOST="127.0.0.1", PORT=black_hole)
    with processes.broker_at(f"{scheme}://u:s3cret@127.0.0.1:{black_hole}/0"):
        began = time.monotonic()
        status, text = readyz(client)
        took = time.monotonic() - began
        again = readyz(client)
    assert status == 503, text
    assert text.count("\n") == 2, text
    assert "s3cret" not in text, text
    assert took < health.SECONDS + 2
    assert "The database does not answer within 3 s.\n" in again[1]


def test_probe_that_still_hangs_is_not_repeated(broker):
    release, asked = processes.threading.Event(), []

    def hang():
        asked.append(1)
        release.wait(20)
        return ""

    health.SECONDS, seconds = 0.05, health.SECONDS
    try:
        answers = {health.TimedProbe("slow", hang).get() for _ in range(3)}
    finally:
        health.SECONDS = seconds
        release.set()
    assert answers == {"The slow does not answer within 0.05 s."}
    assert len(asked) == 1
    health.TimedProbe.asked["slow"].join(5)
    assert health.TimedProbe("slow", hang).get() == ""


def test_database_lacking_a_migration_is_not_ready(client, broker):
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'reaper' RETURNING name, applied")
        rows = cursor.fetchall()
        try:
            sentence = f"The database lacks {len(rows)} migrations: run manage.py migrate.\n"
            assert readyz(client) == (503, sentence)
        finally:
            for name, applied in rows:
                values = ["reaper", name, applied]
                cursor.execute("INSERT INTO django_migrations (app, name, applied) VALUES (%s, %s, %s)", values)
    assert readyz(client) == (200, "ready\n")


def test_readiness_probe_leaves_no_connection(client, broker):
    def sessions():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
            return {pid for (pid,) in cursor.fetchall()}

    before = sessions()
    for _ in range(3):
        assert readyz(client)[0] == 200
    processes.wait_until(lambda: sessions() <= before, what="the probes' sessions have gone")
