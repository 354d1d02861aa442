"""docs/BENCHMARKS.md, generated from the figures; do not edit it."""

import re
from collections.abc import Sequence
from typing import Any

from tools.bench.bars import Figure, number

TOP = """# Benchmarks

Made by `make bench`, which fills throwaway servers, measures, and fails when a bar is missed. Every ratio is of two
things measured in one run, on one server, in one state; the best of three counts. The missed bars are listed below.

Measured on {date}: {processors} processors, {memory}, PostgreSQL {server} (autovacuum {autovacuum}, fsync {fsync},
synchronous_commit {commit}, shared_buffers {buffers}), Python {python}, Django {django}, Celery {celery}.
Checkpoints come between the measurements, but where it says otherwise: one that comes while rows are reaped holds up
every write of the server, and would fall upon one side of a ratio only.

| what | value | bar |
|---|---|---|
"""

PEER = """
procrastinate's loop is the one of its manual: a periodic task that asks for the stalled jobs and retries each of them.
chancy's Recovery plugin puts all abandoned jobs back by one statement. Neither has a ledger, evidence or a message to
send, for the queue is the table itself: ours is compared without the time of publishing. Less than one time is faster
than ours. The naive loop gets, changes and saves each run. A sweep of runs that are left alone asks nobody about them.
"""
# What is plotted: the title, the axis, and the figures' names with the number that goes on the axis.
PLOTS = (
    ("A sweep that finds nothing, ms", "jobs in the table", r"all queries of a sweep of ([\d,]+) jobs, none stuck"),
    ("Failing one orphan, µs", "orphans in the sweep", r"fail ([\d,]+) orphans, per run"),
)


def text(figures: Sequence[Figure], facts: dict[str, Any]) -> str:
    """Return the whole page."""
    server = facts["postgresql"]
    top = TOP.format(
        **facts,
        server=server["server_version"],
        autovacuum=server["autovacuum"],
        fsync=server["fsync"],
        commit=server["synchronous_commit"],
        buffers=server["shared_buffers"],
    )
    rows = "".join(f"| {each.name} | {number(each.value)} {each.unit} | {bar(each)} |\n" for each in figures)
    missed = [each for each in figures if each.missed]
    lines = "".join(f"* {each.name}: {number(each.value)} {each.unit}, {bar(each)}\n" for each in missed)
    return top + rows + f"\n## Missed\n\n{lines or 'None.'}\n" + PEER + "".join(plot(figures, *each) for each in PLOTS)


def bar(figure: Figure) -> str:
    """Return a figure's bar in a cell."""
    if figure.bar is None:
        return ""
    side = "≥" if figure.more else "≤"
    return f"{side} {number(figure.bar)} {'**missed**' if figure.missed else 'met'}"


def plot(figures: Sequence[Figure], title: str, axis: str, pattern: str) -> str:
    """Return the plot of the figures whose names match, against the number in the name."""
    found = [(match[1], figure.value) for figure in figures if (match := re.fullmatch(pattern, figure.name))]
    sizes, values = ", ".join(f'"{size}"' for size, _ in found), ", ".join(f"{value:.2f}" for _, value in found)
    top = max((value for _, value in found), default=1) * 1.5
    chart = f'xychart-beta\n    title "{title}"\n    x-axis "{axis}" [{sizes}]\n'
    return f'\n```mermaid\n{chart}    y-axis "{title.rpartition(" ")[2]}" 0 --> {top:.0f}\n    bar [{values}]\n```\n'
