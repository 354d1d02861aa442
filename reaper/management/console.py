"""Where the `reaper` command prints: coloured on a terminal, plain lines elsewhere, and never cut short."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Any

from rich.console import Console as RichConsole
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from reaper.core.formatting import one_line

MAX_WIDTH = 10_000
"""Columns of output that is not a terminal: nothing is wrapped, so that each run is one line, also for grep."""


class Console:
    """A terminal or a pipe."""

    def __init__(self, out: Any, *, no_color: bool = False) -> None:
        self.is_plain = not out.isatty()
        self.rich = RichConsole(
            file=out,
            width=MAX_WIDTH if self.is_plain else None,
            no_color=no_color or None,
            highlight=False,
            markup=False,
            emoji=False,
        )

    def say(self, text: str = "", style: str | None = None) -> None:
        """Print a line; `style` is a style of rich, such as "bold red"."""
        self.rich.print(one_line(text, MAX_WIDTH), style=style)

    def title(self, text: str) -> None:
        """Print the title of what follows."""
        self.say(text, style="bold")

    def indented(self, text: str, style: str | None = None) -> None:
        """Print a paragraph below a title."""
        self.rich.print(Padding(one_line(text, MAX_WIDTH), (0, 0, 0, 2), expand=False), style=style)

    def table(self, table: Table) -> None:
        """Print a table that `new_table` made."""
        self.rich.print(table)

    def write_lines(self, lines: Sequence[str]) -> None:
        """Print lines as they are: about 100 times faster than a table, which matters for tens of thousands."""
        self.rich.file.write("".join(f"{line}\n" for line in lines))

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], object]]:
        """Show a progress bar on a terminal; yields a function that takes how many more runs are done."""
        if self.is_plain:
            yield lambda number: None
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.rich, transient=True) as bar:
            task = bar.add_task(label, total=total)
            yield lambda number: bar.advance(task, number)


class BufferedConsole(Console):
    """Keeps lines instead of printing them, for the JSON of subcommands that print only a sentence or two."""

    def __init__(self) -> None:
        super().__init__(StringIO())
        self.lines: list[str] = []

    def say(self, text: str = "", style: str | None = None) -> None:
        """Keep a line."""
        self.lines.append(one_line(text, MAX_WIDTH))


def new_table(columns: Sequence[str], *, show_header: bool = True) -> Table:
    """Return a table without borders, whose first column, the ids, is never wrapped."""
    table = Table(box=None, show_header=show_header, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for index, name in enumerate(columns):
        table.add_column(name, no_wrap=index == 0, overflow="fold")
    return table
