"""What the reaper did lately, from its sweeps and its ledger: for the lists and charts of the overview."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db.models import Count, Max
from django.db.models.functions import TruncDay, TruncHour
from django.utils import timezone

from reaper.models import LedgerEntry, Sweep

# Sweeps of a list on one screen.
MAX_SWEEPS = 20
DAY = timedelta(days=1)


class TimeBucket(NamedTuple):
    """One hour or day of a chart."""

    starts_at: datetime
    counts: Mapping[str, int]
    """How many runs and parents were acted on, by reason."""
    slowest: float | None
    """Seconds: the longest time for which nobody had worked on a run of it; None without any."""

    @property
    def total(self) -> int:
        """Return how many runs and parents were acted on."""
        return sum(self.counts.values())


def recent_sweeps(databases: Sequence[str]) -> list[Sweep]:
    """Return the newest sweeps that acted, failed or were held, newest first."""
    rows = [
        row
        for using in databases
        for row in Sweep.objects.using(using).filter(idle=False).order_by("-started_at", "-id")[:MAX_SWEEPS]
    ]
    return sorted(rows, key=lambda row: row.started_at, reverse=True)[:MAX_SWEEPS]


def time_buckets(databases: Sequence[str], now: datetime, length: timedelta, number: int) -> list[TimeBucket]:
    """Return the last hours or days, oldest first, each with what was done in it; the last one is not over yet."""
    truncated = TruncDay if length == DAY else TruncHour
    last = timezone.localtime(now).replace(minute=0, second=0, microsecond=0)
    last = last.replace(hour=0) if length == DAY else last
    starts = [last - length * back for back in reversed(range(number))]
    counts: dict[datetime, Counter[str]] = {start: Counter() for start in starts}
    slowest: dict[datetime, float] = {}
    for using in databases:
        applied = LedgerEntry.objects.using(using).applied().filter(created_at__gte=starts[0])
        done = applied.exclude(action=LedgerEntry.DISPATCH)
        grouped = done.order_by().annotate(start=truncated("created_at")).values_list("start", "reason")
        for start, reason, count, longest in grouped.annotate(Count("pk"), Max("unattended_seconds")):
            if start in counts:
                counts[start][reason] += count
                if longest is not None:
                    slowest[start] = max(longest, slowest.get(start, 0.0))
    return [TimeBucket(start, counts[start], slowest.get(start)) for start in starts]
