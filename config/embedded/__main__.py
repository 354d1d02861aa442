"""The embedded servers' command line: `python -m config.embedded start | stop | status | delete | run -- COMMAND …`."""

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config import embedded

THROWAWAY = "dcr-run-"
SETTLED_SECONDS = 60  # a throwaway folder younger than this may not have been locked by its owner yet


def main(arguments: list[str]) -> int:
    """Carry out the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m config.embedded", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in {
        "start": "start those whose variable is not set, and print their addresses",
        "stop": "stop those that run; their data stay",
        "status": "print the addresses of those that run; exit status 1 when one does not",
        "delete": "stop them and delete their data",
    }.items():
        commands.add_parser(name, help=text)
    run_parser = commands.add_parser("run", help="run a command with throwaway servers for what is not set")
    run_parser.add_argument("--durable", action="store_true", help="they write to disk before they answer: slower")
    run_parser.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND …")
    chosen = parser.parse_args(arguments)
    if chosen.command == "run":
        words = chosen.words[1:] if chosen.words[:1] == ["--"] else chosen.words
        return run(words, durable=chosen.durable) if words else run_parser.error("a command is missing")
    return {"start": start, "stop": stop, "status": status, "delete": delete}[chosen.command]()


def start() -> int:
    """Start what is missing."""
    for variable, url in _addresses(embedded.state_folder(), durable=True).items():
        print(f"{variable}={url}")
    return 0


def stop() -> int:
    """Stop what runs."""
    stopped = embedded.stop()
    print(f"Stopped {' and '.join(stopped)}." if stopped else "Nothing was running.")
    return 0


def delete() -> int:
    """Stop what runs and delete the data."""
    embedded.delete()
    return 0


def status() -> int:
    """Print what runs where."""
    urls = {server: server.url() for server in embedded.servers_of().values()}
    for server, url in urls.items():
        process = server.process() if url else None
        print(
            f"{server.title}: {url} (pid {process.pid if process else 'unknown'})"
            if url
            else f"{server.title}: not running"
        )
    return 0 if all(urls.values()) else 1


def run(words: list[str], *, durable: bool = False) -> int:
    """Run a command with throwaway servers and return its status; a signal's is 128 and its number, as in a shell."""
    with _Signals() as signals, _throwaway() as state:
        environment = os.environ | _addresses(state, durable=durable) | {"REAPER_STATE": str(state)}
        if signals.caught:
            return 128 + signals.caught[0]
        try:
            child = subprocess.Popen(words, env=environment)
        except OSError as error:
            print(f"{words[0]}: {error.strerror}", file=sys.stderr)
            return 127
        signals.pass_on_to(child)
        code = child.wait()
    return code if code >= 0 else 128 - code


class _Signals:
    """Passes signals on to the command: only its end ends `run`, so that the servers are always stopped after it."""

    def __init__(self) -> None:
        self.caught: list[int] = []
        self._child: subprocess.Popen | None = None

    def __enter__(self) -> "_Signals":
        self._before = {n: signal.signal(n, self._catch) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def pass_on_to(self, child: subprocess.Popen) -> None:
        self._child = child
        for number in self.caught:
            child.send_signal(number)

    def _catch(self, number: int, _frame: object) -> None:
        self.caught.append(number)
        # A Ctrl-C reaches the command by the terminal; from us it would be a second one.
        if self._child and not (number == signal.SIGINT and _in_foreground()):
            self._child.send_signal(number)


def _in_foreground() -> bool:
    try:
        with open("/dev/tty") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


def _addresses(state: Path, *, durable: bool) -> dict[str, str]:
    return {
        variable: embedded.address(name, state, durable=durable)
        for name, variable in embedded.VARIABLES.items()
        if not os.environ.get(variable)
    }


@contextmanager
def _throwaway() -> Iterator[Path]:
    _sweep_leftovers()
    state = Path(tempfile.mkdtemp(prefix=THROWAWAY))
    state.chmod(0o711)  # the account that runs PostgreSQL for root must pass through
    try:
        with (state / "owner").open("w") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)
            yield state
    finally:
        _remove(state)


def _sweep_leftovers() -> None:
    """Remove what a `run` that was killed left behind: nobody holds its folder's lock any more."""
    for state in Path(tempfile.gettempdir()).glob(f"{THROWAWAY}*"):
        try:
            if state.stat().st_uid != os.geteuid() or time.time() - state.stat().st_mtime < SETTLED_SECONDS:
                continue
            with (state / "owner").open("a") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(state)
        except OSError:
            continue  # still in use, or gone this moment


def _remove(state: Path) -> None:
    embedded.delete(state)
    shutil.rmtree(state, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
