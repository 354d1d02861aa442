"""The demo on throwaway servers: it notices a wrong reap and leaves no process behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest

from tests.processes import PATIENCE, wait_until

pytestmark = [pytest.mark.live, pytest.mark.long, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[3]
RUN = [sys.executable, "-m", "config.embedded", "run", "--", sys.executable, "-m", "tools.demo"]
MARK = "REAPER_DEMO_TEST"


@pytest.fixture
def demo(tmp_path):
    """Start the demo in a session of its own; its processes can be known by their environment."""
    mark = uuid.uuid4().hex
    own = {"DATABASE_URL", "CELERY_BROKER_URL", "REAPER_STATE", "DJANGO_SETTINGS_MODULE"}
    environment = {name: value for name, value in os.environ.items() if name not in own} | {MARK: mark}
    output = tmp_path / "output"
    started = []

    def start(*options):
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*RUN, *options], cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
            )
        started.append(process)
        return process, output

    yield start
    left = processes_of(mark)
    for process in left:
        process.kill()
    for process in started:
        process.wait()
    for folder in re.findall(r"^  Logs:  (\S+)", output.read_text(), re.MULTILINE):
        shutil.rmtree(folder, ignore_errors=True)
    assert left == [], output.read_text()


def processes_of(mark):
    """Return the processes with the mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_demo_with_planted_wrong_reap_exits_1(demo):
    process, output = demo("--quick", "--plant-wrong-reap")
    assert process.wait(timeout=500) == 1, output.read_text()
    last_line = output.read_text().splitlines()[-1]
    assert last_line.startswith("demo: 1 stuck, 1 recovered, 1 wrongly reaped, slowest recovery "), output.read_text()


def test_demo_interrupted_leaves_no_process(demo):
    process, output = demo()

    def is_under_way():
        assert process.poll() is None, output.read_text()
        return "killed with SIGKILL" in output.read_text()

    wait_until(is_under_way, 500, f"the first kill, see {output}")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE) == 130, output.read_text()
    assert "interrupted" in output.read_text().splitlines()[-1]


@pytest.mark.parametrize("missing", ["DATABASE_URL", "CELERY_BROKER_URL"])
def test_demo_without_server_address_exits_2(missing):
    environment = {name: value for name, value in os.environ.items() if name != missing}
    environment |= {name: "unused://" for name in ("DATABASE_URL", "CELERY_BROKER_URL") if name != missing}
    result = subprocess.run(
        RUN[-3:], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert result.returncode == 2
    assert f"{missing} is not set" in result.stderr
