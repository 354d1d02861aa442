"""The demo's output: one line per event as it happens, and a table at the end. Plain text when piped."""

import time
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

COLOURS = {
    "demo": "dim",
    "fault": "bold red",
    "reaper": "bold magenta",
    "recovered": "bold green",
    "wrong": "bold red",
}
PIPED_WIDTH = 140


class Terminal:
    """Prints events with the seconds since the demo's start."""

    def __init__(self, started: float) -> None:
        self.started = started
        self._console = Console(highlight=False, soft_wrap=True)
        if not self._console.is_terminal:
            self._console = Console(highlight=False, soft_wrap=True, width=PIPED_WIDTH)

    def event(self, source: str, text: str) -> None:
        """Print one event."""
        since = time.time() - self.started
        colour = COLOURS.get(source, "cyan")
        self._console.print(f"[dim]{since:6.1f} s[/]  [{colour}]{source:<9}[/]  {escape(text)}")

    def line(self, text: str = "", style: str = "") -> None:
        """Print text without the time."""
        self._console.print(escape(text), style=style or None)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table."""
        table = Table(*columns, title=title, title_justify="left", title_style="bold", show_lines=True)
        for row in rows:
            table.add_row(*map(escape, row))
        self._console.print()
        self._console.print(table, soft_wrap=False)

    def result(self, line: str, is_ok: bool) -> None:
        """Print the last line, without wrapping, and without colour unless on a terminal."""
        self._console.print(line, style="bold green" if is_ok else "bold red", markup=False)
