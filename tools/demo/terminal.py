"""What the demo says: one line per event as it happens, and a table at the end. Plain text when piped."""

import time
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

COLOURS = {"demo": "dim", "trouble": "bold red", "reaper": "bold magenta", "healed": "bold green", "wrong": "bold red"}
PIPED_WIDTH = 140


class Terminal:
    """Tells the story with the time since its start."""

    def __init__(self, started: float) -> None:
        self.started = started
        self._console = Console(highlight=False, soft_wrap=True)
        if not self._console.is_terminal:
            self._console = Console(highlight=False, soft_wrap=True, width=PIPED_WIDTH)

    def tell(self, who: str, text: str) -> None:
        """Print one event."""
        since = time.time() - self.started
        colour = COLOURS.get(who, "cyan")
        self._console.print(f"[dim]{since:6.1f} s[/]  [{colour}]{who:<8}[/]  {escape(text)}")

    def say(self, text: str = "", style: str = "") -> None:
        """Print a line as it is."""
        self._console.print(escape(text), style=style or None)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table."""
        table = Table(*columns, title=title, title_justify="left", title_style="bold", show_lines=True)
        for row in rows:
            table.add_row(*map(escape, row))
        self._console.print()
        self._console.print(table, soft_wrap=False)

    def close(self, line: str, well: bool) -> None:
        """Print the last line, unbroken and uncoloured wherever it is read by a program."""
        self._console.print(line, style="bold green" if well else "bold red", markup=False)
