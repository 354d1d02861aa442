"""`manage.py reaper …`: see what is stuck and why, act on it, and control the reaper."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error

from reaper.management.arguments import DJANGO, HelpFormatter, OneLineParser
from reaper.management.console import BufferedConsole, Console
from reaper.management.context import Context, ExitCode
from reaper.management.subcommand import Subcommand
from reaper.management.subcommands import SUBCOMMANDS, list_by_group
from reaper.reports.json_output import message_document

EPILOG = (
    "Exit codes: 0 nothing is stuck, or it was done; 1 something is stuck, overdue or was not done;\n"
    "2 the command line is wrong. A run is named KIND:ID, as the tables print it."
)


class Command(BaseCommand):
    """Parses the command line, performs one subcommand, and exits with its code."""

    help = "Find stuck runs, explain them, and recover them."
    missing_args_message = f"a subcommand is required: {', '.join(SUBCOMMANDS)}"

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Return Django's parser with its options, as a `OneLineParser`."""
        base = super().create_parser(prog_name, subcommand, add_help=False, **kwargs)
        return OneLineParser(
            prog=base.prog,
            description=f"{self.help}\n\n{list_by_group()}",
            epilog=EPILOG,
            formatter_class=HelpFormatter,
            parents=[base],
            missing_args_message=self.missing_args_message,
            called_from_command_line=base.called_from_command_line,
        )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the subcommands. They get no help text here, because the description lists them by group."""
        choices = parser.add_subparsers(dest="subcommand", required=True, metavar="COMMAND", parser_class=OneLineParser)
        for each in SUBCOMMANDS.values():
            own = choices.add_parser(
                each.name,
                description=each.help,
                epilog=EPILOG,
                formatter_class=HelpFormatter,
                called_from_command_line=parser.called_from_command_line,
            )
            for argument in (*each.arguments, *DJANGO):
                argument.add_to(own)

    def handle(self, *args: Any, **options: Any) -> None:
        """Perform the subcommand. Exit with its code, unless that is 0; raise CommandError for a broken database."""
        subcommand = SUBCOMMANDS[options["subcommand"]]
        context = self.create_context(subcommand, options)
        try:
            with log_lines(shown=subcommand.logs or options["verbosity"] > 1):
                code = subcommand.perform(context, **own_options(subcommand, options))
        except Error as error:
            sentence = f"Database unavailable: {' '.join(str(error).split())}"
            raise CommandError(sentence, returncode=ExitCode.NOT_OK) from error
        except BrokenPipeError:
            # The reader has stopped reading (`| head`). The rest of the buffer must not raise at exit either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = ExitCode.NOT_OK
        if isinstance(context.console, BufferedConsole):
            context.print_json(message_document(context.console.lines, succeeded=code == ExitCode.OK))
        if code:
            sys.exit(code)

    def create_context(self, subcommand: Subcommand, options: dict[str, Any]) -> Context:
        """Return the subcommand's context: where it prints."""
        as_json = options.get("as_json", False)
        console = (
            BufferedConsole()
            if as_json and subcommand.says_sentences
            else Console(self.stdout, no_color=options["no_color"])
        )
        return Context(console, self.stdout, self.stderr, as_json)


def own_options(subcommand: Subcommand, options: dict[str, Any]) -> dict[str, Any]:
    """Return the values of the subcommand's own arguments, by name; `--json` is in the context."""
    names = {each.options.get("dest") or each.names[-1].strip("-").replace("-", "_") for each in subcommand.arguments}
    return {name: options[name] for name in names - {"as_json"}}


@contextmanager
def log_lines(*, shown: bool) -> Iterator[None]:
    """Unless `shown`, suppress the reaper's log lines: subcommands print what went wrong themselves, in one line."""
    logger = logging.getLogger("reaper")
    level = logger.level
    if not shown:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
