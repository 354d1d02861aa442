"""How `make up` supervises its processes."""

import contextlib
import os
import re
import signal
import socket
import sys
import threading
import time

import psutil
import pytest

from config import up
from tests.processes import PATIENCE

pytestmark = pytest.mark.live

SAY_PID = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
IGNORE_TERM = (
    "import signal, subprocess as s, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    f"s.Popen([sys.executable, '-c', {SAY_PID!r}], preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL));"
    "time.sleep(60)"
)


class Stack:
    """`up.supervise` of one program, `name`, in a thread; a signal is one more entry in its list."""

    def __init__(self, code, logs):
        self.logs = logs
        self.signals = []
        self.status = None
        self.thread = threading.Thread(target=self.run, args=[{"name": [sys.executable, "-c", code]}])
        self.thread.start()

    def run(self, commands):
        self.status = up.supervise(commands, dict(os.environ), self.signals, up.Site("http://127.0.0.1:1/", "nobody"))

    def wait_for(self, pattern, count=1, log="name"):
        """The last of so many matches in the log, which must come soon."""
        deadline = time.monotonic() + PATIENCE
        while len(found := re.findall(pattern, self.read(log), re.MULTILINE)) < count:
            assert time.monotonic() < deadline, self.read(log)
            time.sleep(0.05)
        return found[-1]

    def read(self, log):
        """The log so far."""
        path = self.logs / f"{log}.log"
        return path.read_text() if path.exists() else ""

    def process(self, count=1):
        """The process that printed its pid as the `count`th."""
        return psutil.Process(int(self.wait_for(r"^(\d+)$", count)))

    def end(self):
        """Wait for the end and return the status."""
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        return self.status


def is_gone(process):
    """Whether it ends soon; nobody need have collected it, for its parent may be dead too."""
    deadline = time.monotonic() + PATIENCE
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
    return True


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a stack of one process with this code; it is ended after the test."""
    monkeypatch.setenv("REAPER_STATE", str(tmp_path / "state %d"))
    started = []
    yield lambda code: started.append(Stack(code, tmp_path / "state %d" / "logs")) or started[-1]
    for stack in started:
        stack.signals += [signal.SIGINT, signal.SIGINT]
        stack.end()


def test_killed_program_is_restarted_and_none_outlives_a_signal(start):
    stack = start(SAY_PID)
    stack.process().kill()
    second = stack.process(count=2)
    stack.signals.append(signal.SIGTERM)

    assert stack.end() == 0
    assert not second.is_running()


def test_program_that_always_ends_at_once_is_given_up(start, monkeypatch, capsys):
    monkeypatch.setattr(up, "PROGRAM", up.PROGRAM.replace("startretries = 3", "startretries = 1"))
    stack = start("raise SystemExit('no good')")

    assert stack.end() == 1
    stack.wait_for(r"^no good$", count=2)
    assert f"name ended again and again right after its start. See {stack.logs / 'name.log'}" in capsys.readouterr().out


def test_first_signal_stops_the_program_second_kills_its_children(start):
    stack = start(IGNORE_TERM)
    child = stack.process()
    stack.signals.append(signal.SIGINT)
    stack.wait_for("waiting for name to die", log="supervisord")
    assert child.is_running()
    assert child.status() != psutil.STATUS_ZOMBIE

    stack.signals.append(signal.SIGINT)
    assert stack.end() == 0
    assert is_gone(child)


def test_killed_supervisord_leaves_no_process(start):
    stack = start(SAY_PID)
    process = stack.process()
    process.parent().kill()

    assert stack.end() == 1
    assert is_gone(process)


def test_login_is_kept_readable_by_its_owner_only(tmp_path, monkeypatch):
    monkeypatch.setenv("REAPER_STATE", str(tmp_path / "state"))
    kept = up._kept_secrets()
    up._keep_secrets(kept)

    assert up._kept_secrets() == kept
    assert (tmp_path / "state" / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_taken_port_is_passed_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert up._free_port(port) not in (0, port)
