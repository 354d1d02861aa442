"""docs/BENCHMARKS.md, made of the figures; nobody edits it by hand."""

import re
from collections.abc import Sequence
from typing import Any

from bench.bars import Figure, number

TOP = """# Benchmarks

Made by `make bench`, which fills throwaway servers, measures, and fails when a bar is missed. Every ratio is of two
things measured in one run, on one server, in one state; the best of three counts. The missed bars are listed below.

Measured on {date}: {processors} processors, {memory}, PostgreSQL {server} (autovacuum {autovacuum}, fsync {fsync},
synchronous_commit {commit}, shared_buffers {buffers}), Python {python}, Django {django}, Celery {celery}.

| what | value | bar |
|---|---|---|
"""

PEER = """
procrastinate's loop is the one of its manual: a periodic task that asks for the stalled jobs and retries each of them.
It has no ledger, no evidence and no message to send, for its queue is the table itself: ours is compared without the
time of publishing. The naive loop gets, changes and saves each run.
"""


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
    said = "".join(f"* {each.name}: {number(each.value)} {each.unit}, {bar(each)}\n" for each in missed)
    return top + rows + f"\n## Missed\n\n{said or 'None.'}\n" + PEER + plot(figures)


def bar(figure: Figure) -> str:
    """Return a figure's bar in a cell."""
    if figure.bar is None:
        return ""
    side = "≥" if figure.more else "≤"
    return f"{side} {number(figure.bar)} {'**missed**' if figure.missed else 'met'}"


def plot(figures: Sequence[Figure]) -> str:
    """Return the plot of what an empty sweep costs, against the size of the table."""
    sizes = {}
    for figure in figures:
        if found := re.fullmatch(r"all queries of a sweep of ([\d,]+) jobs, none stuck", figure.name):
            sizes[found[1]] = figure.value
    axis = ", ".join(f'"{size}"' for size in sizes)
    values = ", ".join(f"{value:.2f}" for value in sizes.values())
    top = max(sizes.values(), default=1) * 1.5
    chart = f'xychart-beta\n    title "A sweep that finds nothing, ms"\n    x-axis "jobs in the table" [{axis}]\n'
    return f'\n```mermaid\n{chart}    y-axis "ms" 0 --> {top:.0f}\n    bar [{values}]\n```\n'
