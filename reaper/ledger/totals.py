"""What was done and refused since the beginning, counted: the rows that are there, and those that were pruned.

A row that is pruned is added to its total in the same transaction, so what Prometheus takes for a counter never falls.
"""

from collections import defaultdict
from typing import NamedTuple

from django.db import connections, transaction
from django.db.models import Case, CharField, Count, F, FloatField, QuerySet, Sum, Value, When
from django.db.models.functions import Coalesce, Concat

from reaper.models import CounterTotal, LedgerEntry, RefusedWrite

REAPINGS, RECOVERY, REFUSED = "reapings", "recovery", "refused"
# Seconds: the upper bounds of the recovery times. Evidence takes less than half a minute, time alone the timeouts.
BUCKETS = (5, 10, 15, 20, 30, 60, 120, 300, 900, 1800, 3600, 7200, 86_400)
INF = "+Inf"


class Key(NamedTuple):
    """What is counted: the metric, the kind, and "ACTION REASON", a bound of BOUNDS, or the refused write."""

    metric: str
    kind: str
    label: str


class Counted(NamedTuple):
    """How many, and the sum of their seconds where it is times that are counted."""

    number: int = 0
    seconds: float = 0.0


def all_time_counts(using: str) -> dict[Key, Counted]:
    """Return all counts. One statement: what is pruned meanwhile is counted once."""
    kept = CounterTotal.objects.using(using).order_by().values_list("metric", "kind", "label", "count", "seconds")
    live = [*counts(LedgerEntry.objects.using(using)), *counts(RefusedWrite.objects.using(using))]
    return summed(kept.union(*live, all=True))


def prune(rows: QuerySet, batch: int) -> int:
    """Delete one batch of the rows, oldest first, and add it to the totals; return how many they were."""
    skip = connections[rows.db].features.has_select_for_update_skip_locked
    with transaction.atomic(using=rows.db):
        # Locked: two that prune at the same time must not count a row twice.
        # guard: two that prune at once
        oldest = rows.order_by("pk").select_for_update(skip_locked=skip, of=("self",) if skip else ())[:batch]
        pks = list(oldest.values_list("pk", flat=True))
        mine = rows.model._base_manager.using(rows.db).filter(pk__in=pks)
        for query in counts(mine) if pks else ():
            for key, counted in sorted(summed(query).items()):
                add(key, counted, rows.db)
        mine.delete()
    return len(pks)


def add(key: Key, counted: Counted, using: str) -> None:
    """Add to a total."""
    row, _ = CounterTotal.objects.using(using).get_or_create(**key._asdict())
    again = CounterTotal.objects.using(using).filter(pk=row.pk)
    again.update(count=F("count") + counted.number, seconds=F("seconds") + counted.seconds)


def counts(rows: QuerySet) -> list[QuerySet]:
    """Return the queries that count these rows, each as (metric, kind, label, count, seconds)."""
    if rows.model is RefusedWrite:
        return [grouped(rows, REFUSED, F("write"))]
    done = rows.exclude(action=LedgerEntry.DISPATCH)
    timed = rows.filter(actor="", unattended_seconds__isnull=False)
    bound = Case(
        *(When(unattended_seconds__lte=each, then=Value(str(each))) for each in BUCKETS),
        default=Value(INF),
        output_field=CharField(),
    )
    return [
        grouped(done, REAPINGS, Concat("action", Value(" "), "reason")),
        grouped(timed, RECOVERY, bound, Coalesce(Sum("unattended_seconds"), 0.0)),
    ]


def grouped(rows: QuerySet, metric: str, label: Case | Concat | F, seconds: Coalesce | None = None) -> QuerySet:
    """Return the query that counts rows by kind and label."""
    none = Value(0.0, output_field=FloatField())
    named = rows.order_by().annotate(metric=Value(metric, output_field=CharField()), label=label)
    found = named.values("metric", "kind", "label").annotate(count=Count("pk"), seconds=seconds or none)
    return found.values_list("metric", "kind", "label", "count", "seconds")


def summed(rows: QuerySet) -> dict[Key, Counted]:
    """Return the sums of what the rows have counted."""
    found: dict[Key, Counted] = defaultdict(Counted)
    for metric, kind, label, count, seconds in rows:
        key = Key(metric, kind, label)
        found[key] = Counted(found[key].number + count, found[key].seconds + seconds)
    return dict(found)
