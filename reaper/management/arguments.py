"""The arguments of the subcommands, and the parser that reports a mistake in one line."""

import argparse
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from django.core.management.base import CommandError, CommandParser, DjangoHelpFormatter

from reaper.controls.modes import parse_control_duration
from reaper.core.policy import Mode
from reaper.exceptions import InvalidValue
from reaper.management.context import ExitCode

CONFIGURED_MODE = "settings"
"""The word on the command line for the mode of the settings."""


class OneLineParser(CommandParser):
    """Reports a wrong command line in one line, without the usage."""

    def error(self, message: str) -> Any:
        """Exit with `ExitCode.USAGE`; raise CommandError where a program called the command."""
        sentence = " ".join(f"{message} (see {self.prog} --help)".split())
        if self.called_from_command_line:
            self.exit(ExitCode.USAGE, f"{self.prog}: {sentence}\n")
        raise CommandError(sentence, returncode=ExitCode.USAGE)


class HelpFormatter(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the description, which lists the subcommands by group."""


class Argument(NamedTuple):
    """One argument of a subcommand, as `add_argument` takes it."""

    names: Sequence[str]
    options: Mapping[str, Any]

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add it to a parser."""
        parser.add_argument(*self.names, **self.options)


def argument(*names: str, **options: Any) -> Argument:
    """Return an argument."""
    return Argument(names, options)


def parse_duration_argument(text: str) -> timedelta:
    """Return how long a control lasts; zero ends it. Raise ArgumentTypeError."""
    try:
        return parse_control_duration(text)
    except InvalidValue as error:
        raise argparse.ArgumentTypeError(f"{error.problem}: write 30s, 1h 30m or 7d, or 0 to end it") from None


def normalize_mode(text: str) -> str:
    """Return a mode as it is stored: "dry-run" is "dry_run"."""
    return text.lower().replace("-", "_")


AS_JSON = argument("--json", action="store_true", dest="as_json", help="print JSON instead of tables")
DRY_RUN = argument("--dry-run", action="store_true", help="change nothing, print what would be done")
USER = argument("--user", metavar="NAME", help="who asks for it, as recorded in the ledger (default: the login name)")
RUN = argument("run", metavar="KIND:ID", help="the run, as the tables print it")
KIND = argument("kind", metavar="KIND", help="the kind of runs")
KIND_FILTER = argument("--kind", metavar="KIND", help="only this kind of runs")
PARENT = argument("parent", metavar="PARENT_ID", help="the parent's id, without a kind")
REMOVE = argument("--remove", action="store_true", help="delete them, before the reaper is uninstalled")
OVERRIDES = argument(
    "overrides", nargs="*", metavar="NAME=VALUE", help="such as run_timeout=2h; NAME= removes the override"
)
MODE = argument(
    "mode",
    type=normalize_mode,
    metavar="MODE",
    choices=[*map(str, Mode), CONFIGURED_MODE],
    help="act: recover stuck runs; dry_run: only record what would be done; off: do nothing; settings: as configured",
)
PAUSE = argument("duration", metavar="DURATION", type=parse_duration_argument, help="such as 2h; 0 ends the pause")
RELEASE = argument(
    "duration",
    metavar="DURATION",
    nargs="?",
    default=timedelta(hours=1),
    type=parse_duration_argument,
    help="such as 30m (default: 1h); 0 restores the brake",
)
EXEMPTION = argument(
    "duration",
    metavar="DURATION",
    nargs="?",
    type=parse_duration_argument,
    help="such as 2d (default: no expiry); 0 removes the exemption",
)
DJANGO = (
    argument("-v", "--verbosity", type=int, choices=[0, 1, 2, 3], default=argparse.SUPPRESS, help=argparse.SUPPRESS),
    *(argument(name, default=argparse.SUPPRESS, help=argparse.SUPPRESS) for name in ("--settings", "--pythonpath")),
    *(
        argument(name, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        for name in ("--traceback", "--no-color", "--force-color", "--skip-checks")
    ),
)
"""Django's own options, repeated so that they may also follow the subcommand."""
