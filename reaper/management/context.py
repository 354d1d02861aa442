"""What every subcommand is given, and the exit codes."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from reaper.management.console import Console
from reaper.models import Sweep
from reaper.reports.json_output import dumps


class ExitCode(IntEnum):
    """How a subcommand ended."""

    OK = 0
    """Nothing is stuck; or what was asked for was done."""
    NOT_OK = 1
    """Something is stuck, overdue or failing; or what was asked for was not done."""
    USAGE = 2
    """The command line is wrong. Nothing was done."""


@dataclass(frozen=True)
class Context:
    """Where a subcommand prints."""

    console: Console
    """For people; with `--json`, subcommands that print only sentences have a `BufferedConsole` here."""
    stdout: Any
    """Django's wrapper of the standard output, for JSON."""
    stderr: Any
    """Django's wrapper of the standard error, for what went wrong."""
    as_json: bool = False
    """Whether `--json` was given."""

    def print_json(self, document: dict[str, Any]) -> None:
        """Print a document of `reports.json_output`."""
        self.stdout.write(dumps(document))

    def print_error(self, text: str) -> None:
        """Print a line on the standard error."""
        self.stderr.write(text)

    def print_problems(self, sweep: Sweep) -> None:
        """Print on the standard error what went wrong in a sweep, a line each."""
        for error in sweep.error_messages:
            self.print_error(f"{sweep.kind} {sweep.phase}: {error}")
