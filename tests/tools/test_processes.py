"""The tools' processes: everything that they started is ended, and nothing else."""

import subprocess
import sys

import pytest

from tools.processes import ProcessGroup

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]

pytestmark = pytest.mark.live


def test_process_with_reused_pid_is_left_alone(tmp_path):
    stranger = subprocess.Popen(SLEEP, start_new_session=True)
    try:
        stack = ProcessGroup(tmp_path, {})
        stack._sessions[stranger.pid] = 1.0
        stack.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_children_of_a_killed_process_are_ended(tmp_path):
    """Its child is in its session still, though its leader is gone."""
    stack = ProcessGroup(tmp_path, {})
    leader = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, sys; print(subprocess.Popen(sys.argv[1:]).pid, flush=True)", *SLEEP],
        start_new_session=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    stack._sessions[leader.pid] = 1.0
    leader.wait()
    leader.stdout.close()
    assert len(stack.descendants()) == 1
    stack.stop()
    assert stack.descendants() == []
