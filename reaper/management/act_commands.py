"""`manage.py reaper sweep | fail | requeue | reopen | finalize | run`: the subcommands that change runs."""

from django.core.management.base import CommandError

from reaper.conf import settings as conf
from reaper.core.explain import ACTION_DONE
from reaper.core.facts import UNFINISHED_PHASES, Phase
from reaper.core.policy import Action, SweepScope
from reaper.management import scheduler_loop
from reaper.management.arguments import AS_JSON, DRY_RUN, KIND_FILTER, PARENT, RUN, USER
from reaper.management.context import Context, ExitCode
from reaper.management.progress import show_progress
from reaper.management.run_layout import print_sweep
from reaper.management.run_table import RunTable
from reaper.management.subcommand import Subcommand
from reaper.management.targets import actor_name, find_run, select_adapters
from reaper.models import Sweep
from reaper.reports.health import sweep_scopes
from reaper.reports.json_output import sweeps_document
from reaper.reports.run_lines import RunLine
from reaper.reports.sweep_listing import judge_and_list, sweep_and_list
from reaper.sweeps import manual


def sweep(context: Context, kind: str | None, dry_run: bool) -> ExitCode:
    """Sweep every kind and scope, or only print what a sweep would do."""
    lines: list[RunLine] = []
    swept: list[Sweep] = []
    table = RunTable(context.console)
    if dry_run and not context.as_json:
        context.console.title("Dry run: nothing is changed.")
    perform = judge_and_list if dry_run else sweep_and_list
    adapters = select_adapters(kind)
    with show_progress(context, "Judging" if dry_run else "Sweeping", adapters) as on_progress:
        for adapter in adapters:
            for scope in sweep_scopes(adapter):
                swept.append(perform(adapter, scope, lines.extend if context.as_json else table.add, on_progress))
    if context.as_json:
        context.print_json(sweeps_document(swept, lines, dry_run=dry_run))
    else:
        print_swept(context, swept, table, dry_run=dry_run)
    for row in swept:
        context.print_problems(row)
    return ExitCode.NOT_OK if any(row.errors or row.deferred for row in swept) else ExitCode.OK


def print_swept(context: Context, swept: list[Sweep], table: RunTable, *, dry_run: bool) -> None:
    """Print a line per sweep, below the table of the runs that were acted on."""
    if not table.is_empty:
        context.console.say()
    for row in swept:
        print_sweep(context.console, row, dry_run=dry_run)


def fail(context: Context, run: str, user: str | None) -> ExitCode:
    """Fail one run, if it is unfinished."""
    return end_run(context, run, Action.FAIL, user)


def requeue(context: Context, run: str, user: str | None) -> ExitCode:
    """Requeue one run, if it is unfinished."""
    return end_run(context, run, Action.REQUEUE, user)


def end_run(context: Context, run: str, action: Action, user: str | None) -> ExitCode:
    """Fail or requeue one run. Raise CommandError if there is none, or if it has ended."""
    target = find_run(run)
    if target.run.phase not in UNFINISHED_PHASES:
        why = "has finished" if target.run.phase is Phase.FINISHED else "is neither waiting nor running"
        sentence = f"{run} {why}: its status is {target.run.status}. Nothing was changed."
        raise CommandError(sentence, returncode=ExitCode.NOT_OK)
    applied, row = manual.act_on_run(target.adapter, target.run, action, actor_name(user))
    context.print_problems(row)
    if applied:
        context.console.say(f"{run} was {ACTION_DONE[action]}.")
    if applied and row.errors:
        owed = "publishes its new task" if action is Action.REQUEUE else "revokes its task"
        context.print_error(f"It is recorded in the ledger: the next sweep {owed}.")
    if not applied and not row.errors:
        context.print_error(f"{run} changed concurrently. Nothing was changed; check it again.")
    return ExitCode.OK if applied and not row.errors else ExitCode.NOT_OK


def reopen(context: Context, run: str, user: str | None) -> ExitCode:
    """Undo that the reaper ended one run."""
    target = find_run(run)
    applied, row = manual.reopen(target.adapter, target.run, actor_name(user))
    context.print_problems(row)
    if applied:
        context.console.say(f"{run} is marked as running again.")
    elif not row.errors:
        context.print_error(
            f"{run} cannot be reopened: its state changed since the reaper ended it, its parent has ended,"
            " or its adapter does not support reopening."
        )
    return ExitCode.OK if applied else ExitCode.NOT_OK


def finalize(context: Context, parent: str, user: str | None) -> ExitCode:
    """Complete one parent. Raise CommandError if no parent with this id is waiting to be completed."""
    if parent.partition(":")[0] in conf.adapters():
        sentence = f"{parent!r} names a run: give the parent's id alone, without a kind."
        raise CommandError(sentence, returncode=ExitCode.USAGE)
    for adapter in conf.adapters().values():
        if SweepScope.PARENTS not in sweep_scopes(adapter):
            continue
        applied, row = manual.finalize(adapter, parent, actor_name(user))
        if applied:
            context.console.say(f"{parent} was completed.")
            return ExitCode.OK
        if row.errors:
            context.print_problems(row)
            return ExitCode.NOT_OK
    sentence = f"{parent} was not completed: no parent with this id is waiting, or a child has not finished."
    raise CommandError(sentence, returncode=ExitCode.NOT_OK)


def run(context: Context) -> ExitCode:
    """Sweep until SIGTERM or SIGINT."""
    scheduler_loop.run(scheduler_loop.stopped_by_signals(), scheduler_loop.scheduled())
    return ExitCode.OK


SUBCOMMANDS = (
    Subcommand(
        "sweep",
        "Sweep every kind now: recover what is stuck, complete parents.",
        sweep,
        [KIND_FILTER, DRY_RUN, AS_JSON],
    ),
    Subcommand("fail", "Fail an unfinished run and revoke its task.", fail, [RUN, USER, AS_JSON], says_sentences=True),
    Subcommand(
        "requeue",
        "Requeue an unfinished run under a new task; the old one is revoked.",
        requeue,
        [RUN, USER, AS_JSON],
        says_sentences=True,
    ),
    Subcommand(
        "reopen",
        "Undo: mark a run that the reaper ended as running again.",
        reopen,
        [RUN, USER, AS_JSON],
        says_sentences=True,
    ),
    Subcommand(
        "finalize",
        "Complete a parent whose children have all finished.",
        finalize,
        [PARENT, USER, AS_JSON],
        says_sentences=True,
    ),
    Subcommand("run", "Sweep in a loop, without Beat and without a worker, until stopped.", run, logs=True),
)
