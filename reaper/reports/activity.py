"""What the reaper did lately, from its sweeps and its ledger: for the lists and charts of the dashboard."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from math import ceil
from typing import NamedTuple

from django.db.models import Count, QuerySet
from django.db.models.functions import TruncDay, TruncHour
from django.utils import timezone

from reaper.core.reasons import ReasonFamily, find_reason
from reaper.models import LedgerEntry, Sweep

# Sweeps that fit on one screen.
MAX_SWEEPS = 20
DAY = timedelta(days=1)
# Recoveries of a day of which the percentiles are computed: reading them takes some 20 ms.
MAX_TIMES = 10_000
# A host's timestamps may be anything; longer durations are shown as this one.
CENTURY = timedelta(days=36_525)


class TimeBucket(NamedTuple):
    """One hour or day of a chart."""

    starts_at: datetime
    label: str
    """Which hour or day it is: "14:00" or "Mar 1"."""
    counts: Mapping[ReasonFamily, int]
    """How many runs and parents were acted on, by family of reasons."""

    @property
    def total(self) -> int:
        """Return how many runs and parents were acted on."""
        return sum(self.counts.values())


class RecoveryTimes(NamedTuple):
    """How long nobody had worked on the runs of one family of reasons when they were recovered."""

    family: ReasonFamily
    runs: int
    """How many recoveries the percentiles are of."""
    median: timedelta
    p95: timedelta
    """95 of 100 took no longer."""
    slowest: timedelta


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
    counts: dict[datetime, Counter[ReasonFamily]] = {
        last - length * back: Counter() for back in reversed(range(number))
    }
    for using in databases:
        done = entries_since(using, min(counts)).order_by().annotate(start=truncated("created_at"))
        for start, reason, count in done.values_list("start", "reason").annotate(Count("pk")):
            if start in counts:
                counts[start][family_of(reason)] += count
    return [
        TimeBucket(start, f"{start:%b} {start.day}" if length == DAY else f"{start:%H}:00", found)
        for start, found in counts.items()
    ]


def recovery_times(databases: Sequence[str], since: datetime) -> list[RecoveryTimes]:
    """Return how long it took to recover runs since a moment, by family; at most the newest `MAX_TIMES` are counted."""
    seconds: dict[ReasonFamily, list[float]] = {}
    for using in databases:
        timed = entries_since(using, since).filter(actor="", unattended_seconds__isnull=False).order_by("-created_at")
        for reason, value in timed.values_list("reason", "unattended_seconds")[:MAX_TIMES]:
            seconds.setdefault(family_of(reason), []).append(value or 0.0)
    return [
        RecoveryTimes(family, len(found), percentile(found, 0.5), percentile(found, 0.95), percentile(found, 1))
        for family, found in seconds.items()
    ]


def entries_since(using: str, since: datetime) -> QuerySet[LedgerEntry]:
    """Return the ledger entries of what was done with runs and parents."""
    return LedgerEntry.objects.using(using).applied().filter(created_at__gte=since).exclude(action=LedgerEntry.DISPATCH)


def family_of(reason: str) -> ReasonFamily:
    """Return the family of a stored reason; NONE for one that this version does not know."""
    known = find_reason(reason)
    return known.family if known else ReasonFamily.NONE


def percentile(seconds: Sequence[float], share: float) -> timedelta:
    """Return the least of the values that `share` of them do not exceed, at most a century."""
    value = sorted(seconds)[ceil(share * len(seconds)) - 1]
    return timedelta(seconds=min(value, CENTURY.total_seconds()))
