"""The counters: what was done and refused since the beginning.

What a sweep did is added to the totals once, when it closes, and so are the refused writes until then. A scrape reads
the totals alone, and pruning deletes only what is counted: what Prometheus takes for a counter never falls.
"""

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import connections, transaction
from django.db.models import Case, CharField, Count, F, Q, QuerySet, Sum, Value, When

from reaper.models import CounterTotal, LedgerEntry, RefusedWrite, Sweep

ACTIONS = "actions"
"""The metric of runs and parents that were acted on, by action and reason."""
RECOVERY = "recovery"
"""The metric of how long nobody had worked on a run when the reaper acted on it, by upper bound."""
REFUSED = "refused"
"""The metric of late writes that a fence refused, by write."""
BUCKETS = (5, 10, 15, 20, 30, 60, 120, 300, 900, 1800, 3600, 7200, 86_400)
"""Seconds: the upper bounds of recovery times. Evidence takes less than half a minute, time alone the timeouts."""
INF = "+Inf"
"""The label of what is beyond the last bound."""
CUT_OFF_AFTER = timedelta(hours=1)
"""Age beyond which a sweep that has not ended was cut off: no sweep takes that long."""
MAX_ROWS = 5000
"""Sweeps, and refused writes, that are counted when a sweep closes; the rest waits for the next one."""


class Key(NamedTuple):
    """What is counted: the labels of one counter."""

    metric: str
    """`ACTIONS`, `RECOVERY` or `REFUSED`."""
    kind: str
    """The adapter's kind; KIND.parent for parents."""
    label: str
    """An action, a bound of `BUCKETS` as text or `INF`, or a refused write: by the metric."""
    reason: str = ""
    """The reason of an action; '' for the other metrics."""


class Counted(NamedTuple):
    """How often something happened, and how long that took in all."""

    number: int = 0
    """How often it happened."""
    seconds: float = 0.0
    """The sum of the recovery times; 0 for the other metrics."""


def all_time_counts(using: str) -> dict[Key, Counted]:
    """Return all totals: one query, of as many rows as there are labels."""
    return {
        Key(total.metric, total.kind, total.label, total.reason): Counted(total.count, total.seconds)
        for total in CounterTotal.objects.using(using)
    }


def count_closed_sweeps(using: str, now: datetime) -> None:
    """Add what closed sweeps did, and what was refused, to the totals: each once, however often this is called.

    Also of sweeps that were cut off more than `CUT_OFF_AFTER` ago.
    """
    closed = Q(finished_at__isnull=False) | Q(started_at__lt=now - CUT_OFF_AFTER)
    sweeps = Sweep.objects.using(using).filter(closed, counted=False)
    refused = RefusedWrite.objects.using(using).filter(counted=False)
    if not sweeps.exists() and not refused.exists():
        return
    with transaction.atomic(using=using):
        counted: dict[Key, Counted] = defaultdict(Counted)
        if sweep_pks := lock_uncounted(sweeps):
            entries = LedgerEntry.objects.using(using).applied().filter(sweep__in=sweep_pks)
            counted.update(count_actions(entries))
            counted.update(count_recoveries(entries))
            Sweep.objects.using(using).filter(pk__in=sweep_pks).update(counted=True)
        if refused_pks := lock_uncounted(refused):
            rows = RefusedWrite.objects.using(using).filter(pk__in=refused_pks)
            counted.update(count_refused(rows))
            rows.update(counted=True)
        # Always in the same order, so that concurrent counts never deadlock.
        for key, number in sorted(counted.items()):
            add(key, number, using)


def lock_uncounted(rows: QuerySet[Any]) -> list[int]:
    """Lock rows that are not counted yet, oldest first, and return their keys; skip rows that are being counted."""
    can_skip = connections[rows.db].features.has_select_for_update_skip_locked
    # guard: concurrent updates of the totals
    locked = rows.order_by("pk").select_for_update(skip_locked=can_skip)
    return list(locked.values_list("pk", flat=True)[:MAX_ROWS])


def count_actions(entries: QuerySet[LedgerEntry]) -> Iterator[tuple[Key, Counted]]:
    """Yield how many runs and parents were acted on; a dispatch by a person does not count."""
    groups = entries.exclude(action=LedgerEntry.DISPATCH).order_by().values_list("kind", "action", "reason")
    for kind, action, reason, count in groups.annotate(Count("pk")):
        yield Key(ACTIONS, kind, action, reason), Counted(count)


def count_recoveries(entries: QuerySet[LedgerEntry]) -> Iterator[tuple[Key, Counted]]:
    """Yield how long nobody had worked on the runs that the reaper acted on by itself."""
    bound = Case(
        *(When(unattended_seconds__lte=each, then=Value(str(each))) for each in BUCKETS),
        default=Value(INF),
        output_field=CharField(),
    )
    timed = entries.filter(actor="", unattended_seconds__isnull=False).order_by().annotate(bound=bound)
    for kind, label, count, seconds in timed.values_list("kind", "bound").annotate(
        Count("pk"), Sum("unattended_seconds")
    ):
        yield Key(RECOVERY, kind, label), Counted(count, seconds)


def count_refused(rows: QuerySet[RefusedWrite]) -> Iterator[tuple[Key, Counted]]:
    """Yield how many late writes were refused."""
    for kind, write, count in rows.order_by().values_list("kind", "write").annotate(Count("pk")):
        yield Key(REFUSED, kind, write), Counted(count)


def add(key: Key, counted: Counted, using: str) -> None:
    """Add a count to one total."""
    totals = CounterTotal.objects.using(using)
    total, _ = totals.get_or_create(**key._asdict())
    totals.filter(pk=total.pk).update(count=F("count") + counted.number, seconds=F("seconds") + counted.seconds)
