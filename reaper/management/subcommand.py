"""What a subcommand of `manage.py reaper` is."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from reaper.management.arguments import Argument
from reaper.management.context import ExitCode


class Subcommand(NamedTuple):
    """One subcommand."""

    name: str
    """The word on the command line."""
    help: str
    """What it does, in one sentence."""
    perform: Callable[..., ExitCode]
    """Called with the `Context`, and with the arguments by name."""
    arguments: Sequence[Argument] = ()
    """Its own arguments; `--json` becomes the `as_json` of the context."""
    says_sentences: bool = False
    """Whether it prints a sentence or two, which are then its JSON."""
    logs: bool = False
    """Whether the log lines of its sweeps are shown; otherwise the subcommand itself prints what went wrong."""
