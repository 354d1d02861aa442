"""Workers and Beat wait for a database that is not ready, obey signals while waiting, and touch their alive file."""

import json
import os
import signal

import pytest

from config import lifecycle
from tests import processes
from tests.processes import wait_until

CELERY = [processes.sys.executable, "-m", "celery", "-A", "config.celery", "--quiet"]


def test_alive_file_is_touched_only_when_configured(monkeypatch, tmp_path):
    monkeypatch.delenv("ALIVE_FILE", raising=False)
    lifecycle.show_alive()
    file = tmp_path / "alive"
    monkeypatch.setenv("ALIVE_FILE", str(file))
    lifecycle.show_alive()
    os.utime(file, (0, 0))
    lifecycle.show_alive()
    assert file.stat().st_mtime > 0


def test_alive_file_that_cannot_be_touched_is_only_logged(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("ALIVE_FILE", str(tmp_path / "none" / "alive"))
    lifecycle.show_alive()
    assert "ALIVE_FILE cannot be touched: No such file" in caplog.text


@pytest.mark.live
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "words", [["worker", "-Q", "reaper", "-c", "1"], ["beat", "--pidfile="]], ids=["worker", "beat"]
)
def test_program_without_database_logs_waiting_and_obeys_signals(words, number, tmp_path):
    log = tmp_path / "log"
    environment = {
        "DEBUG": "0",
        "SECRET_KEY": "k3y" * 20,
        "ALLOWED_HOSTS": "crawler.example",
        "DATABASE_URL": f"postgres://nobody:s3cret@127.0.0.1:{processes.free_port()}/none",
        "CELERY_BROKER_URL": "memory://",
        "PYTHONWARNINGS": "ignore",
        "ALIVE_FILE": str(tmp_path / "alive"),
    }
    process = processes.start(*CELERY, *words, log=log, environment=environment)
    try:
        wait_until(lambda: "Waiting for" in log.read_text() or process.poll() is not None, what="it waits")
        process.send_signal(number)
        assert process.wait(processes.PATIENCE) == -number
    finally:
        processes.end(process)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines[-1]["message"].startswith("Waiting for the database, asked every 3 s. The database cannot be reached.")
    assert lines[-1]["level"] == "WARNING"
    assert "s3cret" not in log.read_text()
    assert not (tmp_path / "alive").exists()
