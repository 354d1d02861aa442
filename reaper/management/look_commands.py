"""`manage.py reaper status | diagnose | explain`: the subcommands that only read."""

from django.core.management.base import CommandError

from reaper.conf import clock
from reaper.conf import settings as conf
from reaper.controls.overrides import effective_policy
from reaper.management.arguments import AS_JSON, RUN
from reaper.management.context import Context, ExitCode
from reaper.management.progress import show_progress
from reaper.management.run_layout import print_explanation, print_history
from reaper.management.status_layout import print_diagnosis, print_status
from reaper.management.subcommand import Subcommand
from reaper.management.targets import find_run, select_adapters
from reaper.reports.json_output import run_document, status_document
from reaper.reports.run_lines import line_of_verdict
from reaper.reports.status import Depth, Status, build_status
from reaper.reports.timeline import history_of
from reaper.sweeps.judging import judge_run

MAX_ROWS = 100
"""Rows per table of `diagnose`: more than people read. `--json` has all."""


def status(context: Context) -> ExitCode:
    """Print everything at a glance."""
    found = build_status(conf.adapters(), Depth.OVERVIEW)
    if context.as_json:
        context.print_json(status_document(found))
    else:
        print_status(context.console, found)
    return exit_code(found)


def diagnose(context: Context) -> ExitCode:
    """Print every stuck run with its next action."""
    with show_progress(context, "Judging", select_adapters(None)) as on_progress:
        found = build_status(conf.adapters(), Depth.ALL_RUNS, None if context.as_json else MAX_ROWS, on_progress)
    if context.as_json:
        context.print_json(status_document(found))
    else:
        print_diagnosis(context.console, found)
    return exit_code(found)


def exit_code(found: Status) -> ExitCode:
    """Return OK for a healthy status."""
    return ExitCode.OK if found.is_healthy else ExitCode.NOT_OK


def explain(context: Context, run: str) -> ExitCode:
    """Print what is known of one run. Raise CommandError if there is none."""
    target = find_run(run)
    now = clock.now(target.adapter.using)
    judged = judge_run(target.adapter, target.run.pk, now)
    if judged is None:
        raise CommandError(f"{run} was deleted a moment ago.", returncode=ExitCode.NOT_OK)
    events = history_of(target.adapter, target.run.pk)
    if context.as_json:
        context.print_json(run_document(line_of_verdict(judged, now), events))
    else:
        print_explanation(context.console, judged, effective_policy(target.adapter), now)
        print_history(context.console, events)
    return ExitCode.OK


SUBCOMMANDS = (
    Subcommand("status", "Show at a glance what runs, waits and is stuck, and how the reaper is.", status, [AS_JSON]),
    Subcommand("diagnose", "List every stuck run with its next action, and check the sweeps.", diagnose, [AS_JSON]),
    Subcommand("explain", "Explain one run: status, evidence, next action, history.", explain, [RUN, AS_JSON]),
)
