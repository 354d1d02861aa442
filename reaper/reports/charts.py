"""Bar charts as plain geometry, which a template draws as SVG: no script, no picture file. Pure."""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from reaper.core.formatting import format_duration
from reaper.reports.activity import DAY, TimeBucket

WIDTH, HEIGHT, GAP = 720, 120, 2
# Colours that the style sheet names; a reason beyond them shares the last one.
COLOURS = 6


class Rect(NamedTuple):
    """One rectangle: its place, its colour's number, and what it says."""

    x: float
    y: float
    width: float
    height: float
    colour: int
    tooltip: str


class Chart(NamedTuple):
    """A chart: its pieces, the labels below, the legend, and the same as text."""

    pieces: Sequence[Rect]
    # (x, text) below the bars.
    labels: Sequence[tuple[float, str]]
    # (colour's number, name).
    legend: Sequence[tuple[int, str]]
    # What the highest bar is.
    top: str
    summary: str
    # (label, text) of every bar that is not empty, for those who do not see it.
    rows: Sequence[tuple[str, str]]
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def box(self) -> str:
        """Return the SVG's viewBox: the bars, and a line of labels."""
        return f"0 0 {self.width} {self.height + 18}"


def actions_chart(bars: Sequence[TimeBucket]) -> Chart:
    """Return the chart of how many runs were acted on, by reason."""
    reasons = sorted({reason for bar in bars for reason in bar.counts})
    colour = {reason: min(index, COLOURS - 1) for index, reason in enumerate(reasons)}
    most = max((bar.total for bar in bars), default=0)
    pieces = []
    for index, bar in enumerate(bars):
        below = 0.0
        for reason in reasons:
            if count := bar.counts.get(reason, 0):
                tall = HEIGHT * count / most
                below += tall
                says = f"{label(bar, bars)}: {count:,} {reason}"
                pieces.append(piece(index, len(bars), HEIGHT - below, tall, colour[reason], says))
    total = sum(bar.total for bar in bars)
    rows = [
        (label(bar, bars), ", ".join(f"{count:,} {name}" for name, count in sorted(bar.counts.items()))) for bar in bars
    ]
    summary = (
        f"{total:,} runs and parents were acted on in {period_label(bars)}, at most {most:,} in {bucket_label(bars)}."
    )
    return chart(bars, pieces, [(colour[name], name) for name in reasons], f"{most:,}" if most else "", summary, rows)


def recovery_chart(bars: Sequence[TimeBucket]) -> Chart:
    """Return the chart of the slowest recoveries."""
    slowest = [bar.slowest or 0.0 for bar in bars]
    most = max(slowest, default=0.0)
    pieces = [
        piece(
            index,
            len(bars),
            HEIGHT * (1 - value / most),
            HEIGHT * value / most,
            0,
            f"{label(bars[index], bars)}: {format_seconds(value)}",
        )
        for index, value in enumerate(slowest)
        if value
    ]
    rows = [(label(bar, bars), format_seconds(bar.slowest) if bar.slowest is not None else "") for bar in bars]
    summary = (
        f"The slowest recovery in {period_label(bars)} took {format_seconds(most)}."
        if most
        else f"There was no recovery in {period_label(bars)}."
    )
    return chart(bars, pieces, [], format_seconds(most) if most else "", summary, rows)


def chart(
    bars: Sequence[TimeBucket],
    pieces: Sequence[Rect],
    legend: Sequence[tuple[int, str]],
    top: str,
    summary: str,
    rows: Sequence[tuple[str, str]],
) -> Chart:
    """Return the chart with a label below every sixth bar."""
    step = WIDTH / max(len(bars), 1)
    labels = [(index * step, label(bar, bars)) for index, bar in enumerate(bars) if index % 6 == 0]
    return Chart(pieces, labels, legend, top, summary, [row for row in rows if row[1]])


def piece(index: int, number: int, y: float, height: float, colour: int, says: str) -> Rect:
    """Return a part of a bar; one that is there is at least a pixel high."""
    step, tall = WIDTH / number, max(height, 1.0)
    return Rect(
        round(index * step, 1), round(min(y, HEIGHT - tall), 1), round(step - GAP, 1), round(tall, 1), colour, says
    )


def is_daily(bars: Sequence[TimeBucket]) -> bool:
    """Return whether a bar is a day."""
    return len(bars) > 1 and bars[1].starts_at - bars[0].starts_at > timedelta(hours=2)


def label(bar: TimeBucket, bars: Sequence[TimeBucket]) -> str:
    """Return which hour or day a bar is."""
    return f"{bar.starts_at:%b} {bar.starts_at.day}" if is_daily(bars) else f"{bar.starts_at:%H}:00"


def period_label(bars: Sequence[TimeBucket]) -> str:
    """Return what all bars are together."""
    return f"the last {len(bars)} {'days' if is_daily(bars) else 'hours'}"


def bucket_label(bars: Sequence[TimeBucket]) -> str:
    """Return what one bar is."""
    return "a day" if is_daily(bars) else "an hour"


def format_seconds(seconds: float) -> str:
    """Return seconds as a person says them."""
    return format_duration(min(timedelta(seconds=seconds), 36_525 * DAY))
