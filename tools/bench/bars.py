"""A figure, its bar, and the sentence for a bar that was missed; pure."""

from collections.abc import Iterable
from typing import NamedTuple


class Figure(NamedTuple):
    """One measured value. A bar is what it may be at most, or at least where `more` is better."""

    name: str
    value: float
    unit: str
    bar: float | None = None
    more: bool = False

    @property
    def missed(self) -> bool:
        """Whether there is a bar, and the value is on the wrong side of it."""
        if self.bar is None:
            return False
        return self.value < self.bar if self.more else self.value > self.bar

    @property
    def line(self) -> str:
        """Return the figure in one line."""
        return f"{self.name}: {number(self.value)} {self.unit}{self.verdict}"

    @property
    def verdict(self) -> str:
        """Return its bar and whether it is met; '' without one."""
        if self.bar is None:
            return ""
        side = "at least" if self.more else "at most"
        return f" ({side} {number(self.bar)}: {'missed' if self.missed else 'ok'})"


def number(value: float) -> str:
    """Return a value with three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def last_line(figures: Iterable[Figure]) -> str:
    """Return how many bars were missed."""
    figures = list(figures)
    bars = [figure for figure in figures if figure.bar is not None]
    return f"bench: {len(figures)} figures, {len(bars)} bars, {sum(figure.missed for figure in bars)} missed"
