"""The table of runs, printed page by page: a terminal gets columns that fit it, a pipe one line per run."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from reaper.core.formatting import format_duration, one_line
from reaper.core.policy import Action, SweepScope
from reaper.management.console import Console, new_table
from reaper.reports.run_lines import RunLine

MIN_WIDTHS = (50, 20, 9)
"""Widths of the first three columns; the first fits KIND:ID with a UUID. Fixed, so that all pages line up."""
MIN_TERMINAL_WIDTH = 100
"""Columns of a terminal. On a narrower one, all but the run is in one column, which may wrap."""
NO_ACTION = "none"
COLOURS: dict[str, str] = {
    Action.FAIL: "red",
    Action.CLOSE: "yellow",
    Action.REQUEUE: "cyan",
    Action.REPUBLISH: "cyan",
}


class Row(NamedTuple):
    """One run's row of the table."""

    run: str
    """KIND:ID; of a parent only the id, which is what `finalize` takes."""
    state: str
    action: str
    reason: str


HEADER = Row("RUN", "STATE", "ACTION", "REASON")


class RunTable:
    """A table that grows by pages. Its header is printed with the first page that has runs."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.is_empty = True

    def add(self, lines: Sequence[RunLine]) -> None:
        """Print one page of runs."""
        if not lines:
            return
        rows = [row_of(line) for line in lines]
        if self.console.is_plain:
            self.console.write_lines([align(row) for row in ([HEADER, *rows] if self.is_empty else rows)])
        else:
            self.console.table(self.fitting_table(rows))
        self.is_empty = False

    def fitting_table(self, rows: Sequence[Row]) -> Table:
        """Return a page of runs as a table that fits the terminal."""
        is_narrow = self.console.rich.width < MIN_TERMINAL_WIDTH
        table = new_table(["RUN", "STATE, ACTION, REASON"] if is_narrow else HEADER, show_header=self.is_empty)
        for column, width in zip(table.columns, MIN_WIDTHS[:1] if is_narrow else MIN_WIDTHS, strict=False):
            column.min_width = width
        for row in rows:
            action = Text(row.action, COLOURS.get(row.action, ""))
            if is_narrow:
                table.add_row(row.run, Text.assemble(f"{row.state}: ", action, f" ({row.reason})"))
            else:
                table.add_row(row.run, row.state, action, row.reason)
        return table


def row_of(line: RunLine) -> Row:
    """Return a run's row of the table."""
    is_parent = line.phase == SweepScope.PARENTS
    state = "parent" if is_parent else str(line.phase)
    return Row(
        run=one_line(line.id if is_parent else f"{line.kind}:{line.id}"),
        state=state if line.age is None else f"{state} {format_duration(line.age)}",
        action=NO_ACTION if line.action == Action.LEAVE else str(line.action),
        reason=line.reason_text,
    )


def align(row: Row) -> str:
    """Return a row as one line of plain text."""
    cells = [cell.ljust(width) for cell, width in zip(row, MIN_WIDTHS, strict=False)]
    return "  ".join([*cells, row.reason])
