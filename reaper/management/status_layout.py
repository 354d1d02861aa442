"""How a `Status` is printed: at a glance for `status`, with full lists for `diagnose`. Nothing is decided here."""

from collections import Counter
from collections.abc import Mapping, Sequence

from reaper.core.formatting import format_ago, format_duration, one_line
from reaper.core.reasons import find_reason
from reaper.management.console import Console, new_table
from reaper.management.run_table import RunTable
from reaper.reports.run_lines import CappedList
from reaper.reports.status import KindStatus, Status, WorkerState, state_of_worker

MAX_WORKERS = 100
"""Workers that `status` lists: those in trouble come first."""
MAX_RUNS = 20
"""Runs per kind that `status` lists: the oldest."""


def print_status(console: Console, status: Status) -> None:
    """Print everything at a glance, kind by kind."""
    for kind in status.kinds:
        print_kind(console, kind)
    if status.alerts:
        print_alerts(console, status)
    print_workers(console, status)
    print_queues(console, status)
    print_conclusion(console, status)


def print_kind(console: Console, kind: KindStatus) -> None:
    """Print one kind at a glance."""
    console.title(kind.kind)
    if kind.error:
        console.indented(f"These runs cannot be read: {kind.error}", style="red")
    for phase, runs in kind.phases.items():
        oldest = f", oldest {format_duration(runs.oldest)}" if runs.oldest else ""
        console.indented(f"{phase}: {runs.count:,}{oldest}")
    for health in kind.sweeps:
        for note in health.notes:
            console.indented(f"{health.phase}: {note}")
    for condition in kind.conditions:
        console.indented(f"{condition.phase}: {condition.code}: {condition.message}", style="red")
    if kind.stuck_runs:
        console.indented(f"stuck or at risk: {kind.stuck_runs:,}")
    RunTable(console).add(kind.lines[:MAX_RUNS])
    console.say()


def print_alerts(console: Console, status: Status) -> None:
    """Print the open alerts."""
    console.title("Open alerts")
    for row in status.alerts:
        acknowledged = f" (acknowledged by {row.acknowledged_by})" if row.acknowledged_by else ""
        console.indented(f"{row.subject}: {row.message}{acknowledged}")
    console.say()


def print_workers(console: Console, status: Status) -> None:
    """Print the workers, those in trouble first."""
    console.title("Workers")
    if not status.workers:
        console.indented("No worker reports; only time limits apply.")
        console.say()
        return
    table = new_table(["WORKER", "STATE", "LAST HEARTBEAT", "RUNNING", "RESERVED", "QUEUES"])
    for each in status.workers[:MAX_WORKERS]:
        state = state_of_worker(each)
        table.add_row(
            one_line(each.hostname),
            state.replace("_", " "),
            format_ago(each.seen_at, status.now),
            f"{len(each.active):,}",
            f"{len(each.held):,}",
            one_line(", ".join(sorted(each.queues))),
            style="red" if state is WorkerState.DEAD else "",
        )
    console.table(table)
    console.say()


def print_queues(console: Console, status: Status) -> None:
    """Print how many messages wait in each queue."""
    console.title("Queues")
    for queue, depth in status.queues.items():
        console.indented(f"{queue}: {'length not known' if depth is None else f'{depth:,} waiting'}")
    if status.queues_error:
        console.indented(status.queues_error)
    console.say()


def print_diagnosis(console: Console, status: Status) -> None:
    """Print the full lists of a status, what is stuck first."""
    judged = [each.judged for each in status.kinds if each.judged]
    lists: dict[str, Sequence[CappedList]] = {
        "Next actions": [each.acting for each in judged],
        "Stuck or at risk, no action yet": [each.undecided for each in judged],
        "Parents to complete": [each.parents for each in status.kinds],
        "Long-running or long-waiting, not stuck": [each.late for each in judged],
    }
    for title, parts in lists.items():
        print_runs(console, title, parts)
    reasons = sum((each.reasons for each in judged), Counter[str]())
    if reasons:
        print_reasons(console, reasons)
    print_sweeps(console, status)
    print_conclusion(console, status)


def print_runs(console: Console, title: str, lists: Sequence[CappedList]) -> None:
    """Print one sort of runs of all kinds; nothing if there are none."""
    total = sum(each.total for each in lists)
    if not total:
        return
    lines = [line for each in lists for line in each.lines][: lists[0].limit]
    console.title(title)
    RunTable(console).add(lines)
    if total > len(lines):
        console.say(f"… and {total - len(lines):,} more; --json lists them all.")
    console.say()


def print_reasons(console: Console, counts: Mapping[str, int]) -> None:
    """Print how many runs have each reason, the most frequent first."""
    console.title("Reasons")
    table = new_table(["", "", ""], show_header=False)
    table.columns[0].justify = "right"
    for reason, count in sorted(counts.items(), key=lambda each: (-each[1], each[0])):
        known = find_reason(reason)
        table.add_row(f"{count:,}", reason, known.sentence if known else "")
    console.table(table)
    console.say()


def print_sweeps(console: Console, status: Status) -> None:
    """Print how the sweeps of each kind and scope are doing."""
    console.title("Sweeps")
    table = new_table(["KIND", "PHASE", "LAST SUCCESS", "PROBLEMS"])
    sweeps = [health for kind in status.kinds for health in kind.sweeps]
    for health in sweeps:
        success = "never" if health.since_success is None else f"{format_duration(health.since_success)} ago"
        problems = ", ".join(health.conditions)
        table.add_row(health.kind, health.phase, success, problems, style="red" if problems else "")
    console.table(table)
    for health in sweeps:
        for note in health.notes:
            console.say(f"{health.kind} {health.phase}: {note}")
    console.say()


def print_conclusion(console: Console, status: Status) -> None:
    """Print in one line what the exit code means."""
    if status.is_healthy:
        late = f" {status.late_runs:,} running or waiting unusually long." if status.late_runs else ""
        console.say(f"Nothing is stuck, and every sweep is on time.{late}", style="green")
        return
    parts = {
        "stuck runs": status.stuck_runs,
        "parents to complete": status.stuck_parents,
        "problems of sweeps": sum(len(each.conditions) for each in status.kinds),
        "unreadable kinds": sum(bool(each.error) for each in status.kinds),
    }
    figures = ", ".join(f"{name}: {count:,}" for name, count in parts.items() if count)
    console.say(f"Needs attention: {figures}", style="bold red")
