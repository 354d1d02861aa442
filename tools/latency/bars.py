"""The figures and what they must not exceed; pure."""

import math
from collections.abc import Sequence
from statistics import median

# Seconds, with the default schedule and thresholds and a second worker up.
MEDIAN, P95, SLOW = 10.0, 15.0, 65.0


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that this share of all values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def last_line(kills: Sequence[float], wrong: int) -> str:
    """Return the figures in one line."""
    figures = (median(kills), percentile(kills, 0.95), max(kills)) if kills else (math.nan,) * 3
    median_s, p95_s, worst_s = (f"{figure:.1f} s" for figure in figures)
    return f"latency: kills {len(kills)}, median {median_s}, p95 {p95_s}, worst {worst_s}, wrongly reaped {wrong}"


def missed(kills: Sequence[float], wanted: int, others: dict[str, float | None], wrong: int) -> list[str]:
    """Return a sentence for every bar that was missed; `others` has None for what was not recovered at all."""
    found = [f"only {len(kills)} of {wanted} kills were recovered from"] if len(kills) < wanted else []
    if kills and median(kills) > MEDIAN:
        found.append(f"the median is {median(kills):.1f} s, more than {MEDIAN:.0f} s")
    if kills and percentile(kills, 0.95) > P95:
        found.append(f"the 95th percentile is {percentile(kills, 0.95):.1f} s, more than {P95:.0f} s")
    for name, seconds in others.items():
        if seconds is None:
            found.append(f"{name}: not recovered")
        elif seconds > SLOW:
            found.append(f"{name}: {seconds:.1f} s, more than {SLOW:.0f} s")
    return found + [f"{wrong} runs were wrongly reaped"] * bool(wrong)
