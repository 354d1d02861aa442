"""Charts as plain geometry, which the templates draw as inline SVG. Pure.

X is in per cent and y in pixels: a chart fills whatever width it gets, and its text keeps its size. Each family of
reasons always has the same colour, whatever else a chart shows, so that charts can be compared.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from math import log10
from typing import NamedTuple

from reaper.core.formatting import format_duration
from reaper.core.reasons import ReasonFamily
from reaper.reports.activity import RecoveryTimes, TimeBucket

HEIGHT = 120
"""Pixels: the height of the plot."""
AXIS_WIDTH = 5
"""Per cent of the width that the plot leaves to the numbers of the axis."""
# In stacking order, bottom first; the position of each is the number of its colour in the style sheet. The last one
# collects reasons that this version does not know.
FAMILIES = tuple(ReasonFamily)
# The marks of the scale of recovery times. Evidence takes seconds, time limits an hour.
MARKS = tuple(timedelta(seconds=seconds) for seconds in (1, 10, 60, 600, 3600))


class Bar(NamedTuple):
    """One rectangle."""

    x: float
    """Its left edge, in per cent."""
    width: float
    """In per cent."""
    y: float
    """Its upper edge, in pixels."""
    height: float
    """In pixels."""
    colour: int
    """The number of its colour."""
    tooltip: str


class Mark(NamedTuple):
    """A text at a place of an axis."""

    at: float
    """Per cent on a horizontal axis, pixels on a vertical one."""
    text: str


class LegendEntry(NamedTuple):
    """A family of a chart, with its number."""

    colour: int
    label: str
    runs: int


class Chart(NamedTuple):
    """Stacked bars over time, and the same as text."""

    bars: Sequence[Bar]
    ticks: Sequence[Mark]
    """The vertical axis, from 0 to its end."""
    labels: Sequence[Mark]
    """The hours or days below the bars."""
    legend: Sequence[LegendEntry]
    summary: str
    rows: Sequence[tuple[str, str]]
    """(hour or day, counts in words) of every bar that is not empty."""


class RecoveryRow(NamedTuple):
    """The recovery times of one family on a logarithmic scale: a bar from the median to the 95th percentile."""

    label: str
    colour: int
    runs: int
    median: Mark
    p95: Mark
    slowest: Mark

    @property
    def width(self) -> float:
        """Return the width of the bar, in per cent."""
        return max(self.p95.at - self.median.at, 0.5)


def actions_chart(buckets: Sequence[TimeBucket]) -> Chart:
    """Return the chart of how many runs and parents were acted on, by family of reasons."""
    most = max((bucket.total for bucket in buckets), default=0)
    end = axis_end(most)
    step = (100 - AXIS_WIDTH) / max(len(buckets), 1)
    totals = {family: sum(bucket.counts.get(family, 0) for bucket in buckets) for family in FAMILIES}
    total = sum(totals.values())
    return Chart(
        bars=[bar for index, bucket in enumerate(buckets) for bar in stack(bucket, end, index, step)],
        ticks=[Mark(HEIGHT * (1 - value / end), f"{value:,}") for value in (0, end // 2, end)],
        labels=[Mark(round(index * step, 2), each.label) for index, each in enumerate(buckets) if index % 6 == 0],
        legend=[LegendEntry(FAMILIES.index(each), each.label, runs) for each, runs in totals.items() if runs],
        summary=f"{total:,} recoveries, at most {most:,} in one bar." if total else "No recoveries.",
        rows=[(bucket.label, in_words(bucket.counts)) for bucket in buckets if bucket.total],
    )


def stack(bucket: TimeBucket, end: int, index: int, step: float) -> list[Bar]:
    """Return the parts of one bar, each at least a pixel high: it may end a few pixels above the plot."""
    bars = []
    top = float(HEIGHT)
    for colour, family in enumerate(FAMILIES):
        if runs := bucket.counts.get(family, 0):
            height = max(HEIGHT * runs / end, 1.0)
            top -= height
            tooltip = f"{bucket.label}: {runs:,} {family.label}"
            bars.append(
                Bar(round(index * step, 2), round(step * 0.8, 2), round(top, 1), round(height, 1), colour, tooltip)
            )
    return bars


def recovery_rows(times: Sequence[RecoveryTimes]) -> list[RecoveryRow]:
    """Return one row per family that has recovery times, in the order of the families."""
    return [
        RecoveryRow(
            label=each.family.label,
            colour=FAMILIES.index(each.family),
            runs=each.runs,
            median=scale_mark(each.median),
            p95=scale_mark(each.p95),
            slowest=scale_mark(each.slowest),
        )
        for each in sorted(times, key=lambda each: FAMILIES.index(each.family))
    ]


def scale_mark(duration: timedelta) -> Mark:
    """Return where a duration lies on the scale from 1 s to 1 h, in per cent; beyond its ends it lies at them."""
    seconds = min(max(duration, MARKS[0]), MARKS[-1]).total_seconds()
    return Mark(round(2 + 96 * log10(seconds) / log10(MARKS[-1].total_seconds()), 2), format_duration(duration))


def axis_end(most: int) -> int:
    """Return the end of an axis for numbers up to `most`: an even number of few digits."""
    power = 10 ** (len(str(max(most - 1, 1))) - 1)
    return next(times * power for times in (2, 4, 6, 8, 10) if times * power >= most)


def in_words(counts: Mapping[ReasonFamily, int]) -> str:
    """Return counts in words: "3 Worker lost, 1 Message lost"."""
    return ", ".join(f"{counts[family]:,} {family.label}" for family in FAMILIES if counts.get(family))
