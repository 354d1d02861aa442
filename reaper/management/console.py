"""What the `reaper` command prints: coloured on a terminal, plain elsewhere, and never cut short."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import datetime
from typing import Any

from rich.console import Console as RichConsole
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from reaper.core.decisions import Decision
from reaper.core.explain import describe_decision, describe_evidence, describe_facts, describe_limits
from reaper.core.facts import NO_EVIDENCE, Evidence, RunFacts
from reaper.core.formatting import format_ago, format_duration, one_line
from reaper.core.policy import Action, Policy, SweepScope
from reaper.core.reasons import find_reason
from reaper.models import Sweep
from reaper.reports.run_lines import CappedList, RunLine
from reaper.reports.status import KindStatus, Status, WorkerState, state_of_worker
from reaper.reports.timeline import describe_event

# Where there is no screen nothing is wrapped: one run is one line, for grep and for the eye.
UNWRAPPED = 10_000
HEAD = ("RUN", "STATE", "ACTION", "REASON")
# The first is `KIND:ID` with a UUID. Fixed, so that the columns of page after page stand below each other.
WIDTHS = (50, 20, 9)
# Workers that are named at a glance: those in trouble come first.
WORKERS = 100
# Runs of a kind that are listed at a glance: the oldest.
GLANCE = 20
# On a narrower terminal all but the run is put into one column, which may wrap.
WIDE = 100
COLOURS: dict[str, str] = {Action.FAIL: "red", Action.CLOSE: "yellow", Action.REQUEUE: "cyan", Action.REPUBLISH: "cyan"}


class BufferedConsole:
    """Keeps what would be printed."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str = "", style: str | None = None) -> None:
        """Keep a line."""
        self.lines.append(one_line(text, UNWRAPPED))


class Console:
    """The terminal, or the pipe."""

    def __init__(self, out: Any, *, no_color: bool = False) -> None:
        self.plain = not out.isatty()
        self.console = RichConsole(
            file=out,
            width=UNWRAPPED if self.plain else None,
            no_color=no_color or None,
            highlight=False,
            markup=False,
            emoji=False,
        )
        self.headed = False

    @contextmanager
    def working(self, what: str, total: int) -> Iterator[Callable[[int], object]]:
        """Show on a terminal how far long work has come; yields what is to be called with the number of runs done."""
        if self.plain:
            yield lambda number: None
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        )
        with Progress(*columns, TimeElapsedColumn(), console=self.console, transient=True) as progress:
            task = progress.add_task(what, total=total)
            yield lambda number: progress.advance(task, number)

    def say(self, text: str = "", style: str | None = None) -> None:
        """Print a line."""
        self.console.print(one_line(text, UNWRAPPED), style=style)

    def indented(self, text: str) -> None:
        """Print a paragraph of what stands under a title."""
        self.console.print(Padding(one_line(text, UNWRAPPED), (0, 0, 0, 2), expand=False))

    def title(self, text: str) -> None:
        """Print the title of what follows."""
        self.say(text, style="bold")

    def runs(self, lines: Sequence[RunLine]) -> None:
        """Print runs; the head comes with the first page only."""
        if lines and self.plain:
            # A table of rich takes 1 ms per row, and here there may be tens of thousands.
            rows = [cells(line) for line in lines] if self.headed else [HEAD, *(cells(line) for line in lines)]
            self.console.file.write("\n".join(map(aligned, rows)) + "\n")
        elif lines:
            self.console.print(self.table(lines))
        self.headed = self.headed or bool(lines)

    def table(self, lines: Sequence[RunLine]) -> Table:
        """Return the table of runs, as wide as the terminal is."""
        narrow = self.console.width < WIDE
        table = grid(["RUN", "WHAT"] if narrow else HEAD, show_header=not self.headed)
        for column, width in zip(table.columns, WIDTHS[:1] if narrow else WIDTHS, strict=False):
            column.min_width = width
        for line in lines:
            run, state, action, why = cells(line)
            coloured = Text(action, COLOURS.get(action, ""))
            if narrow:
                table.add_row(run, Text.assemble(f"{state}: ", coloured, f" ({why})"))
            else:
                table.add_row(run, state, coloured, why)
        return table

    def more(self, shown: int, total: int) -> None:
        """Say how many there are that are not shown."""
        if total > shown:
            self.say(f"… and {total - shown:,} more; --json lists them all.")

    def reasons(self, counts: Mapping[str, int]) -> None:
        """Print reasons with their sentences, the most frequent first."""
        table = grid(["", "", ""], show_header=False)
        table.columns[0].justify = "right"
        for reason, count in sorted(counts.items(), key=lambda each: (-each[1], each[0])):
            known = find_reason(reason)
            table.add_row(f"{count:,}", reason, known.sentence if known else "")
        self.console.print(table)

    def swept(self, sweep: Sweep, *, would: bool = False) -> None:
        """Print a sweep in one line. What went wrong is told elsewhere."""
        figures = copy(sweep)
        figures.errors = []
        self.say(f"{'would sweep' if would else 'swept'} {sweep.kind} {sweep.phase}: {figures.summary}")

    def overview(self, found: Status) -> None:
        """Print everything at a glance, each kind by itself."""
        for kind in found.kinds:
            self.kind(kind)
        if found.alerts:
            self.title("Open alerts")
            for row in found.alerts:
                self.indented(
                    f"{row.subject}: {row.message}" + f" (seen by {row.acknowledged_by})" * bool(row.acknowledged_by)
                )
            self.say()
        self.title("Workers")
        table = grid(["WORKER", "STATE", "HEARD OF", "WORKS ON", "HOLDS", "QUEUES"])
        for each in found.workers[:WORKERS]:
            state = state_of_worker(each)
            seen = format_ago(each.seen_at, found.now) if each.seen_at else "none"
            figures = (str(len(each.active)), str(len(each.held)), one_line(", ".join(sorted(each.queues))))
            table.add_row(
                one_line(each.hostname),
                state.replace("_", " "),
                seen,
                *figures,
                style="red" if state is WorkerState.DEAD else "",
            )
        self.console.print(table) if found.workers else self.indented(
            "None reports. Without one only the timeouts act."
        )
        self.say()
        self.title("Queues")
        for queue, depth in found.queues.items():
            self.indented(f"{queue}: {'not known' if depth is None else f'{depth:,} waiting'}")
        if found.queues_error:
            self.indented(found.queues_error)
        self.say()
        self.conclusion(found)

    def kind(self, kind: KindStatus) -> None:
        """Print one kind at a glance."""
        self.title(kind.kind)
        if kind.error:
            self.indented(f"It cannot be read: {kind.error}")
        for phase, runs in kind.phases.items():
            oldest = f", the oldest for {format_duration(runs.oldest)}" if runs.oldest else ""
            self.indented(f"{phase}: {runs.count:,}{oldest}")
        for each in kind.sweeps:
            for said in each.notes:
                self.indented(f"{each.phase}: {said}")
        for phase, name, said in kind.conditions:
            self.say(f"  {phase}: {name}: {said}", style="red")
        if kind.stuck_runs:
            self.indented(f"{kind.stuck_runs:,} stuck or at risk")
        self.headed = False
        self.runs(kind.lines[:GLANCE])
        self.say()

    def diagnosis(self, found: Status) -> None:
        """Print the full lists of a status, what is stuck first."""
        judged = [each.judged for each in found.kinds if each.judged]
        sorts: dict[str, Sequence[CappedList]] = {
            "What the next sweep would do": [each.acting for each in judged],
            "Stuck or at risk, no action yet": [each.undecided for each in judged],
            "Parents that wait to be completed": [each.parents for each in found.kinds],
            "Long-running or long-waiting, not stuck": [each.late for each in judged],
        }
        for title, lists in sorts.items():
            if total := sum(each.total for each in lists):
                shown = [line for each in lists for line in each.lines][: lists[0].limit]
                self.title(title)
                self.headed = False
                self.runs(shown)
                self.more(len(shown), total)
                self.say()
        if counts := sum((each.reasons for each in judged), Counter[str]()):
            self.title("Reasons")
            self.reasons(counts)
            self.say()
        self.title("Sweeps")
        self.health(found)
        self.say()
        self.conclusion(found)

    def health(self, found: Status) -> None:
        """Print how the sweeps of each kind and scope are doing."""
        table = grid(["KIND", "PHASE", "LAST SUCCESS", "PROBLEMS"])
        sweeps = [each for kind in found.kinds for each in kind.sweeps]
        for each in sweeps:
            ago = "never" if each.since_success is None else f"{format_duration(each.since_success)} ago"
            problems = ", ".join(each.conditions)
            table.add_row(each.kind, each.phase, ago, problems, style="red" if problems else "")
        self.console.print(table)
        for each in sweeps:
            for note in each.notes:
                self.say(f"{each.kind} {each.phase}: {note}")

    def conclusion(self, found: Status) -> None:
        """Print what the exit code says."""
        late = f" {found.late_runs:,} running or waiting unusually long." if found.late_runs else ""
        if found.is_healthy:
            self.say(f"Nothing is stuck, and every sweep is on time.{late}", style="green")
            return
        parts = {
            "stuck runs": found.stuck_runs,
            "stuck parents": found.stuck_parents,
            "problems of sweeps": sum(len(each.conditions) for each in found.kinds),
            "unreadable kinds": sum(bool(each.error) for each in found.kinds),
        }
        self.say("; ".join(f"{name}: {count:,}" for name, count in parts.items() if count), style="bold red")

    def explanation(self, run: RunFacts, decision: Decision, evidence: Evidence, policy: Policy, now: datetime) -> None:
        """Print what is known of a run, and what would be done with it."""
        self.title(f"{run.kind}:{run.pk}")
        known = "" if evidence is NO_EVIDENCE else f"Known: {describe_evidence(run, evidence, now)}."
        for sentence in (
            describe_facts(run, now),
            known,
            describe_decision(run, decision, policy, now),
            describe_limits(run, policy),
        ):
            if sentence:
                self.indented(sentence)

    def history(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Print what happened to a run before."""
        self.say()
        self.title("Before")
        if not events:
            self.indented("The reaper has done nothing to it, and no late write to it was refused.")
        for event in events:
            self.indented(f"{event['created_at']:%Y-%m-%d %H:%M:%S %Z}  {describe_event(event)}")


def grid(names: Sequence[str], *, show_header: bool = True) -> Table:
    """Return a table without lines, whose first column, the ids, is never broken."""
    table = Table(box=None, show_header=show_header, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for index, name in enumerate(names):
        table.add_column(name, no_wrap=index == 0, overflow="fold")
    return table


def cells(line: RunLine) -> tuple[str, str, str, str]:
    """Return a line as a table has it. A parent is named by its id alone, which is what `finalize` takes."""
    run = line.id if line.phase == SweepScope.PARENTS else f"{line.kind}:{line.id}"
    state = "parent" if line.phase == SweepScope.PARENTS else str(line.phase)
    if line.age is not None:
        state = f"{state} {format_duration(line.age)}"
    return one_line(run), state, str(line.action), str(line.alert if line.action == Action.LEAVE else line.reason)


def aligned(row: Sequence[str]) -> str:
    """Return a row of plain text."""
    return "  ".join([*(cell.ljust(width) for cell, width in zip(row, WIDTHS, strict=False)), row[-1]])
