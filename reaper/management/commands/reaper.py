"""`manage.py reaper …`: sweep now, diagnose, explain one run, and the runbook's steps by hand."""

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error

from reaper.adapters import RunAdapter
from reaper.conf import clock
from reaper.conf import settings as conf
from reaper.controls import overrides as policies
from reaper.core.explain import ACTION_DONE
from reaper.core.facts import Phase, RunFacts
from reaper.core.policy import Action, Mode, SweepScope
from reaper.management import scheduler_loop as loop
from reaper.management.console import BufferedConsole, Console
from reaper.management.control_commands import SETTINGS, Switching, actor, parse_length
from reaper.management.policy_command import Thresholds
from reaper.models import Sweep
from reaper.reports.health import sweep_scopes
from reaper.reports.json_output import dumps, message_document, run_document, status_document, sweeps_document
from reaper.reports.judged import ignore_progress
from reaper.reports.run_lines import RunLine, line_of_verdict
from reaper.reports.status import Depth, build_status
from reaper.reports.sweep_listing import dry_run as list_dry_run
from reaper.reports.sweep_listing import sweep_and_list
from reaper.reports.timeline import history_of
from reaper.sweeps import manual
from reaper.sweeps.judging import judge_run

# Rows of a table of `diagnose`: more than anybody reads at night.
SHOWN = 100
WELL, NOT_WELL, USAGE = 0, 1, 2
# What says a sentence or two, which is then its JSON.
PHASES = (Phase.RUNNING, Phase.QUEUED)
SAYING = ("fail", "requeue", "reopen", "finalize", "mode", "pause", "release", "exempt", "schedules")
EPILOG = (
    "Exit codes: 0 all is well, 1 something is stuck or overdue or was not done, 2 the command line is wrong."
    " A run is named KIND:ID, as the tables print it."
)


class OneLineParser(CommandParser):
    """Says in one line what is wrong with the command line, without the usage."""

    def error(self, message: str) -> Any:
        """End with the exit code 2; a program that called the command gets a CommandError."""
        sentence = " ".join(f"{message} (see {self.prog} --help)".split())
        if self.called_from_command_line:
            self.exit(USAGE, f"{self.prog}: {sentence}\n")
        raise CommandError(sentence, returncode=USAGE)


class Command(Switching, Thresholds, BaseCommand):
    """Looks after stuck runs by hand."""

    help = "Finds stuck runs, says what is the matter with them, and ends or requeues them."
    missing_args_message = (
        "say what to do: status, sweep, run, diagnose, explain, fail, requeue, finalize, schedules,"
        " policy, mode, pause, release or exempt"
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Return the parser."""
        parser = super().create_parser(prog_name, subcommand, epilog=EPILOG, **kwargs)
        # Django makes its own class of parser and leaves no other way to choose one.
        parser.__class__ = OneLineParser
        return parser

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the subcommands."""
        common = django_options()
        subs = parser.add_subparsers(dest="do", required=True, metavar="WHAT", parser_class=OneLineParser)

        def sub(name: str, text: str, *parents: OneLineParser) -> None:
            subs.add_parser(name, help=text, description=text, epilog=EPILOG, parents=[common, *parents])

        as_json = option("--json", action="store_true", help="print JSON instead of tables")
        kind = option("--kind", metavar="KIND", help="only this kind of runs")
        rehearse = option("--dry-run", action="store_true", help="write nothing, print what would be done")
        run = option("run", metavar="KIND:ID", help="the run")
        parent = option("parent", metavar="PARENT_ID", help="the parent's id, without a kind")
        user = option("--user", metavar="NAME", help="who asks for it, for the ledger (default: who is logged in)")
        sub("status", "Say at a glance what runs, waits and is stuck, and how the sweeps and workers are.", as_json)
        sub("sweep", "Sweep every kind and phase now, and finalize parents.", kind, rehearse, as_json)
        sub("diagnose", "Say what the next sweep would do, and whether sweeps are on time.", as_json)
        sub("explain", "Say what is known of one run, and what would be done with it.", run, as_json)
        sub("fail", "Fail an unfinished run and kill its task.", run, user, as_json)
        sub("requeue", "Give an unfinished run a new task; one that is running is killed before.", run, user, as_json)
        sub("reopen", "Undo that a run was ended, where its kind allows it: it was fine.", run, user, as_json)
        gone = option("--remove", action="store_true", help="delete them, before the reaper is uninstalled")
        sub("schedules", "List the schedules by which Beat starts the sweeps.", gone, as_json)
        sub("finalize", "Give a parent whose children have all ended its outcome.", parent, user, as_json)
        modes = option("mode", choices=[*Mode, SETTINGS], help="what its sweeps do; settings: what those say")
        long, hour = {"metavar": "DURATION", "type": parse_length}, timedelta(hours=1)
        pause = option("duration", help="for how long, such as 2h; 0 ends it", **long)
        release = option("duration", nargs="?", default=hour, help="for how long (default: 1h); 0 ends it", **long)
        exempt = option("duration", nargs="?", help="for how long (default: for good); 0 ends it", **long)
        named = option("kind", metavar="KIND", help="the kind of runs")
        sub("run", "Sweep in a loop, without Beat and without a worker, until it is stopped.")
        edits = option("edits", nargs="*", metavar="NAME=VALUE", help="such as run_timeout=2h; empty ends the edit")
        sub("policy", "Show a kind's thresholds, or edit some of them.", named, edits, rehearse, as_json, user)
        sub("mode", "Have a kind's sweeps act, only observe, or do nothing.", named, modes, user, as_json)
        sub("pause", "Switch a kind's sweeps off for a while.", named, pause, user, as_json)
        sub(
            "release",
            "Let a kind's sweeps act on however many runs, for a while: you have looked.",
            named,
            release,
            user,
            as_json,
        )
        sub("exempt", "Leave one run alone, for a while or for good.", run, exempt, user, as_json)

    def handle(self, *args: Any, **options: Any) -> None:
        """Do what the subcommand says. Exits with 1 when something is stuck, overdue or was not done."""
        self.page = Console(self.stdout, no_color=options["no_color"])
        said = BufferedConsole() if options.get("json") and options["do"] in SAYING else None
        self.page = said or self.page
        try:
            with quiet(unless=options["verbosity"] > 1 or options["do"] == "run"):
                code = getattr(self, f"do_{options['do']}")(**options)
        except Error as error:
            sentence = f"The database does not answer as it should: {' '.join(str(error).split())}"
            raise CommandError(sentence, returncode=NOT_WELL) from error
        except BrokenPipeError:
            # Whoever reads has seen enough (`| head`); what is buffered must not raise at the exit either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = NOT_WELL
        if said:
            self.stdout.write(dumps(message_document(said.lines, succeeded=code == WELL)))
        if code:
            sys.exit(code)

    def do_sweep(self, kind: str | None, dry_run: bool, json: bool, **_: Any) -> int:
        """Sweep, or only print what a sweep would do."""
        lines: list[RunLine] = []
        swept: list[Sweep] = []
        if dry_run and not json:
            self.page.title("Dry run: nothing is written.")
        act = list_dry_run if dry_run else sweep_and_list
        with self.working("Judging" if dry_run else "Sweeping", self.chosen(kind), json) as done:
            for adapter in self.chosen(kind):
                for phase in sweep_scopes(adapter):
                    swept.append(act(adapter, phase, lines.extend if json else self.page.runs, done))
        if json:
            self.stdout.write(dumps(sweeps_document(swept, lines, dry_run=dry_run)))
        elif self.page.headed:
            self.page.say()
        for row in swept:
            if not json:
                self.page.swept(row, would=dry_run)
            self.complain(row)
        return NOT_WELL if any(row.errors or row.deferred for row in swept) else WELL

    def do_status(self, json: bool, **_: Any) -> int:
        """Print everything at a glance."""
        status = build_status(conf.adapters(), Depth.OVERVIEW)
        if json:
            self.stdout.write(dumps(status_document(status)))
        else:
            self.page.overview(status)
        return WELL if status.is_healthy else NOT_WELL

    def do_diagnose(self, json: bool, **_: Any) -> int:
        """Print what would happen now."""
        with self.working("Judging", self.chosen(None), json) as done:
            status = build_status(conf.adapters(), Depth.ALL_RUNS, None if json else SHOWN, done)
        if json:
            self.stdout.write(dumps(status_document(status)))
        else:
            self.page.diagnosis(status)
        return WELL if status.is_healthy else NOT_WELL

    def do_explain(self, run: str, json: bool, **_: Any) -> int:
        """Print what is known of one run."""
        adapter, facts = self.find(run)
        now = clock.now(adapter.using)
        verdict = judge_run(adapter, facts.pk, now)
        if verdict is None:
            raise CommandError(f"{run} was deleted a moment ago.", returncode=NOT_WELL)
        events = history_of(adapter, facts.pk)
        if json:
            self.stdout.write(dumps(run_document(line_of_verdict(verdict, now), events)))
        else:
            self.page.explanation(*verdict, policies.effective_policy(adapter), now)
            self.page.history(events)
        return WELL

    def do_fail(self, run: str, user: str | None, **_: Any) -> int:
        """Fail one run by hand."""
        return self.act(run, Action.FAIL, user)

    def do_requeue(self, run: str, user: str | None, **_: Any) -> int:
        """Requeue one run by hand."""
        return self.act(run, Action.REQUEUE, user)

    def do_reopen(self, run: str, user: str | None, **_: Any) -> int:
        """Undo that a run was ended."""
        adapter, facts = self.find(run)
        done, row = manual.reopen(adapter, facts, actor(user))
        self.complain(row)
        if done:
            self.page.say(f"{run} was reopened.")
        elif not row.errors:
            self.stderr.write(f"{run} cannot be reopened: it is not as the reaper has left it, or its kind forbids it.")
        return WELL if done else NOT_WELL

    def do_finalize(self, parent: str, user: str | None, **_: Any) -> int:
        """Finalize one parent by hand."""
        if parent.partition(":")[0] in conf.adapters():
            raise CommandError(f"{parent!r} names a run: give the parent's id alone, without a kind.", returncode=USAGE)
        for adapter in conf.adapters().values():
            if SweepScope.PARENTS not in sweep_scopes(adapter):
                continue
            done, row = manual.finalize(adapter, parent, actor(user))
            if done:
                self.page.say(f"{parent} was given its outcome.")
                return WELL
            if row.errors:
                self.complain(row)
                return NOT_WELL
        sentence = f"{parent} was not finalized: no parent of this id waits for its outcome, or a child has not ended."
        raise CommandError(sentence, returncode=NOT_WELL)

    def do_run(self, **_: Any) -> int:
        """Sweep until a signal comes."""
        loop.run(loop.stopped_by_signals(), loop.scheduled())
        return WELL

    def do_schedules(self, remove: bool, **_: Any) -> int:
        """List the schedules, or delete them. Exits with 1 when a task is not scheduled, or its schedule is off."""
        if not apps.is_installed("django_celery_beat"):
            raise CommandError("django_celery_beat is not installed: there are no schedules.", returncode=NOT_WELL)
        from reaper import schedules  # whose models exist only then

        if remove:
            self.page.say(f"{schedules.remove()} schedules were deleted. A migrate with the reaper makes them again.")
            return WELL
        rows = {row.task: row for row in schedules.existing()}
        for task in schedules.TASKS:
            row = rows.get(task)
            state = "missing: migrate makes it" if row is None else "on" if row.enabled else "off"
            self.page.say(f"{task}: {state}" + (f", {row.scheduler}" if row else ""))
        return WELL if all(task in rows and rows[task].enabled for task in schedules.TASKS) else NOT_WELL

    def act(self, target: str, action: Action, user: str | None) -> int:
        """Fail or requeue one run by hand, if it is still unfinished."""
        adapter, run = self.find(target)
        if run.phase not in (Phase.QUEUED, Phase.RUNNING):
            why = "has ended" if run.phase is Phase.FINISHED else "is neither waiting nor running"
            raise CommandError(f"{target} {why}: its status is {run.status}. Nothing was done.", returncode=NOT_WELL)
        done, row = manual.act_on_run(adapter, run, action, actor(user))
        self.complain(row)
        if not done:
            if not row.errors:
                self.stderr.write(f"{target} has moved on since it was read. Nothing was done; look again.")
            return NOT_WELL
        self.page.say(f"{target} was {ACTION_DONE[action]}.")
        if row.errors:
            later = "publishes its new task" if action is Action.REQUEUE else "revokes its task"
            self.stderr.write(f"This is in the ledger: the next sweep {later}.")
        return NOT_WELL if row.errors else WELL

    def working(self, what: str, adapters: list[RunAdapter], json: bool) -> Any:
        """Show how far long work with the unfinished runs has come, where somebody looks on."""
        if json or self.page.plain:
            return nullcontext(ignore_progress)
        return self.page.working(what, sum(each.summarize(phase).count for each in adapters for phase in PHASES))

    def chosen(self, kind: str | None) -> list[RunAdapter]:
        """Return the adapter of one kind, or all."""
        if kind is None:
            return list(conf.adapters().values())
        return [self.adapter(kind)]

    def adapter(self, kind: str) -> RunAdapter:
        """Return a kind's adapter. Raises CommandError when there is no such kind."""
        adapters = conf.adapters()
        if kind not in adapters:
            raise CommandError(f"There is no kind {kind!r}. Kinds are: {', '.join(adapters)}.", returncode=USAGE)
        return adapters[kind]

    def find(self, target: str) -> tuple[RunAdapter, RunFacts]:
        """Return the run that KIND:ID names, with its adapter. Raises CommandError when there is none."""
        kind, _, pk = target.partition(":")
        if not (kind and pk):
            kinds = ", ".join(conf.adapters())
            raise CommandError(f"{target!r} is not KIND:ID. Kinds are: {kinds}.", returncode=USAGE)
        adapter = self.adapter(kind)
        run = adapter.get(pk)
        if run is None:
            sentence = f"There is no run {target!r} (a parent is no run: `finalize` takes its id)."
            raise CommandError(sentence, returncode=USAGE)
        return adapter, run

    def complain(self, row: Sweep) -> None:
        """Tell on stderr what went wrong in a sweep."""
        for error in row.error_messages:
            self.stderr.write(f"{row.kind} {row.phase}: {error}")


def option(*names: str, **how: Any) -> OneLineParser:
    """Return a parser with one argument, to be a parent of those that have it."""
    parser = OneLineParser(add_help=False)
    parser.add_argument(*names, **how)
    return parser


def django_options() -> OneLineParser:
    """Return Django's own options once more: people write them behind the subcommand as well."""
    parser = OneLineParser(add_help=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("-v", "--verbosity", type=int, choices=[0, 1, 2, 3], help=argparse.SUPPRESS)
    for name in ("--settings", "--pythonpath"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--traceback", "--no-color", "--force-color", "--skip-checks"):
        parser.add_argument(name, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


@contextmanager
def quiet(*, unless: bool) -> Iterator[None]:
    """Keep the sweeps' log lines back: the command tells the same itself, without tracebacks."""
    logger = logging.getLogger("reaper")
    level = logger.level
    if not unless:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
