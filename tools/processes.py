"""Start each process in a session of its own, and leave none behind, however the tool ends."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
# A stopping worker finishes its tasks first. At the end there are none, and after a Ctrl-C they are not waited for.
STOP_SECONDS = 4
KILL_ROUNDS = 5


class ProcessGroup:
    """The processes by name, with one log file each in `folder`."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = dict(environment)
        self.processes: dict[str, subprocess.Popen] = {}
        # Session -> when its leader was started: pids are reused.
        self._sessions: dict[int, float] = {}
        self._log_starts: dict[str, int] = {}

    def start(self, name: str, module: Sequence[str]) -> None:
        """Start a Python module's command. The terminal's Ctrl-C does not reach it, only the tool."""
        with self.log(name).open("ab") as log:
            self._log_starts[name] = log.tell()
            process = subprocess.Popen(
                [sys.executable, "-m", *module],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes[name] = process
        self._sessions[process.pid] = psutil.Process(process.pid).create_time()

    def log(self, name: str) -> Path:
        """Return a process' log file."""
        return self.folder / f"{name}.log"

    def is_ready(self, name: str) -> bool:
        """Return whether the worker has logged that it is ready since it was last started."""
        return b" ready." in self.log(name).read_bytes()[self._log_starts[name] :]

    def ended(self) -> list[str]:
        """Return the names of the processes that have ended."""
        return [name for name, process in self.processes.items() if process.poll() is not None]

    def kill(self, name: str) -> int:
        """Kill a worker and its pool with SIGKILL, as happens to a container out of memory; return the worker's pid."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return process.pid

    def tails(self, lines: int = 8) -> dict[str, list[str]]:
        """Return the last lines of every log."""
        logs = sorted(self.folder.glob("*.log"))
        return {log.stem: log.read_text(errors="replace").splitlines()[-lines:] for log in logs}

    def stop(self) -> None:
        """Ask everything to end, kill what does not, and make sure that no descendant is left."""
        for process in self.processes.values():
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        while self.descendants() and time.monotonic() < deadline:
            self.ended()
            time.sleep(0.05)
        # In rounds: a process may have started another before it was killed.
        for _ in range(KILL_ROUNDS):
            left = self.descendants()
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=1)
        for process in self.processes.values():
            process.wait()

    def descendants(self) -> list[psutil.Process]:
        """Return all processes in the started sessions, the children of killed ones included."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            session = os.getsid(process.pid)
            return (
                session in self._sessions
                and self._is_same_session(session)
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except (ProcessLookupError, PermissionError, psutil.Error):
            return False

    def _is_same_session(self, session: int) -> bool:
        """Return whether the session is still the one started here, and not a later one with the same number."""
        try:
            return psutil.Process(session).create_time() == self._sessions[session]
        except psutil.NoSuchProcess:
            # Its leader has ended; the members that are left keep the number from being reused.
            return True
