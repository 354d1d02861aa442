"""`make demo`: break real workers and show how the reaper recovers. Exits with 0 when everything was recovered.

It needs an empty PostgreSQL and an empty Redis, named by DATABASE_URL and CELERY_BROKER_URL: `make demo` makes both and
throws them away.
"""

import argparse
import logging
import os
import shutil
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import django

from tools import commands
from tools.common import ExitStatus, Interrupts, environment, has_empty_servers, has_server_addresses, prepare_database
from tools.demo.terminal import Terminal
from tools.processes import ProcessGroup

# The whole demo must be over within two minutes, its servers' start and end included.
GIVE_UP_SECONDS = 100
# Instead of 10 min and 30 s. The reaper's thresholds are production's: here it acts on evidence, not on age.
TIME_LIMIT, SWEEP_SECONDS = 12, 5
INTRODUCTION = f"""
  The reaper sweeps every {SWEEP_SECONDS} s. Its timeouts are production's: one hour for a crawl, 15 min for a message.
  Whatever it does sooner, it does on evidence. Celery kills a crawl after {TIME_LIMIT} s.
  The demo takes about a minute. Ctrl-C stops everything.
"""


def main(arguments: list[str]) -> int:
    """Perform the demo and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only the fault that is recovered soonest: about 30 s")
    parser.add_argument(
        "--plant-wrong-reap",
        action="store_true",
        help="reap a healthy run, to check that the demo detects it and exits with 1",
    )
    options = parser.parse_args(arguments)
    if not has_server_addresses("demo"):
        return ExitStatus.USAGE
    folder = Path(tempfile.mkdtemp(prefix="reaper-demo-"))
    demo = Demo(folder)
    status: int = ExitStatus.FAILED
    try:
        status = demo.perform(quick=options.quick, plant=options.plant_wrong_reap)
    except KeyboardInterrupt:
        demo.terminal.line("demo: interrupted; all its processes are stopped")
        status = ExitStatus.INTERRUPTED
    finally:
        if status != ExitStatus.FAILED:
            shutil.rmtree(folder, ignore_errors=True)
    return status


def demo_environment(folder: Path) -> dict[str, str]:
    """Return the environment of all processes, with the demo's short limits."""
    return environment(
        folder,
        LOG_LEVEL="INFO",
        CRAWL_TIME_LIMIT=str(TIME_LIMIT),
        # None: a task that reaches its soft limit ends its run itself; the one that hangs here must not.
        CRAWL_SOFT_TIME_LIMIT="0",
    )


class Demo:
    """One demo from start to orderly stop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started = time.time()
        self.terminal = Terminal(self.started)
        os.environ.update(demo_environment(folder))
        self.processes = ProcessGroup(folder, os.environ)
        self.story: Any = None
        self.missing = ""
        self._interrupts = Interrupts()

    def perform(self, *, quick: bool, plant: bool) -> int:
        """Play the story, stop everything, print the result. Stop and raise KeyboardInterrupt after a signal."""
        django.setup()
        from tools.demo.story import SITES, Story
        from tools.site import Server
        from tools.watch import TimedOut, Watch

        if not has_empty_servers("demo"):
            return ExitStatus.USAGE
        logging.getLogger().setLevel(logging.ERROR)
        self.terminal.line("django-celery-reaper: real runs get stuck, and the reaper recovers them", "bold")
        self.terminal.line(INTRODUCTION)
        login = prepare_database(SWEEP_SECONDS)
        watch = Watch(self.folder / "journal.jsonl", end=self.started + GIVE_UP_SECONDS, check=self._interrupts.check)
        server = Server(SITES)
        try:
            admin = self._open(login)
            watch.until(lambda: answers(admin), missing="the web server does not answer")
            self.story = Story(self.terminal, watch, self.processes, server)
            self.story.play(quick=quick, plant=plant)
        except TimedOut as error:
            self.missing = str(error)
        finally:
            self.processes.stop()
            server.close()
        wrong = watch.final_judgement()
        watch.close()
        self._interrupts.check()
        return self._conclude(wrong, len(watch.journal))

    def _open(self, login: str) -> str:
        """Start the web server, the reaper and Beat, print where they are, and return the admin's address."""
        port = free_port()
        admin = f"http://127.0.0.1:{port}/admin/"
        self.processes.start("web", commands.web(port))
        self.processes.start("reaper", commands.reaper())
        self.processes.start("beat", commands.beat())
        self.terminal.line(f"  Admin: {admin} ({login})\n  Logs:  {self.folder} (deleted on success)\n")
        self.terminal.event("demo", "PostgreSQL and Redis are up; web server, reaper worker and Beat are starting")
        return admin

    def _conclude(self, wrong: int, events: int) -> int:
        """Print the table and the last line; return the exit status."""
        faults = [each for each in self.story.faults if each.happened_at] if self.story else []
        recovered = [each for each in faults if each.recovered_at]
        unfinished = self.story.not_completed() if self.story else []
        self._show_table(faults)
        if self.story:
            count = len(self.story.healthy) - len(unfinished)
            untouched = "" if wrong or unfinished else "; the reaper touched none of them"
            self.terminal.line(
                f"{count} healthy runs were completed concurrently, slow and waiting ones included{untouched}."
            )
        self.terminal.line(f"Wrong reaps are judged by the tasks' own journal: {events} entries.")
        left = self.processes.descendants()
        problems = [self.missing] if self.missing else []
        problems += [f"not completed, though healthy: {', '.join(unfinished)}"] if unfinished else []
        problems += [f"{len(left)} processes could not be stopped"] if left else []
        is_ok = not problems and not wrong and len(recovered) == len(faults)
        if problems:
            self._show_failure(problems)
        slowest = max((each.recovery for each in recovered), default=0.0)
        counts = f"{len(faults)} stuck, {len(recovered)} recovered, {wrong} wrongly reaped"
        self.terminal.result(f"demo: {counts}, slowest recovery {slowest:.1f} s", is_ok)
        return ExitStatus.OK if is_ok else ExitStatus.FAILED

    def _show_table(self, faults: list[Any]) -> None:
        rows = [
            (
                each.what,
                f"{each.name}: {each.left_behind}",
                self.story.reasons.get(each.run, ""),
                each.outcome or "still stuck",
                f"{each.recovery:.1f} s" if each.recovered_at else "",
            )
            for each in faults
        ]
        columns = ("fault", "left behind", "the reaper's action", "now", "after")
        self.terminal.table("Stuck runs and their recovery", columns, rows)

    def _show_failure(self, problems: list[str]) -> None:
        for problem in problems:
            self.terminal.event("wrong", problem)
        for name, lines in self.processes.tails().items():
            self.terminal.line(f"--- the end of {self.processes.log(name)}")
            for line in lines:
                self.terminal.line(f"    {line}")


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url: str) -> bool:
    """Return whether the web server answers at this address."""
    try:
        with urllib.request.urlopen(url, timeout=2):  # noqa: S310 # our own address
            return True
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
