"""Delete history that is older than its retention."""

from collections.abc import Collection
from datetime import datetime, timedelta

from django.db.models import Q, QuerySet

from reaper.ledger.totals import count_closed_sweeps
from reaper.models import Alert, Exemption, LedgerEntry, MessageSighting, RefusedWrite, Sweep

PRUNE_BATCH = 5000
"""Rows deleted in one statement, so that none holds its locks for long."""
SIGHTING_RETENTION = timedelta(days=1)
"""Age beyond which a sighting that no later scan confirmed belongs to a run that has moved on."""


def prune_history(using: str, now: datetime, retention: timedelta) -> None:
    """Delete what is older than `retention` in one database.

    Kept all the same: what is not part of the totals yet, and the last good sweep of each kind and scope.
    """
    horizon = now - retention
    count_closed_sweeps(using, now)
    entries = LedgerEntry.objects.using(using).filter(created_at__lt=horizon)
    prune(entries.filter(Q(sweep=None) | Q(sweep__counted=True)))
    prune(RefusedWrite.objects.using(using).filter(created_at__lt=horizon, counted=True))
    prune(Exemption.objects.using(using).filter(until__lt=horizon))
    prune(Alert.objects.using(using).filter(resolved_at__lt=horizon))
    prune(MessageSighting.objects.using(using).filter(seen_at__lt=now - SIGHTING_RETENTION))
    sweeps = Sweep.objects.using(using).filter(started_at__lt=horizon, counted=True)
    prune(sweeps.exclude(pk__in=last_good_sweeps(using)))


def prune(rows: QuerySet) -> None:
    """Delete the rows, `PRUNE_BATCH` at a time."""
    while pks := list(rows.order_by("pk").values_list("pk", flat=True)[:PRUNE_BATCH]):
        rows.model._base_manager.using(rows.db).filter(pk__in=pks).delete()


def last_good_sweeps(using: str) -> Collection[int]:
    """Return the keys of the newest finished sweep without errors, per kind and scope."""
    good = Sweep.objects.using(using).filter(errors=[], finished_at__isnull=False).order_by("started_at")
    return {(kind, phase): pk for kind, phase, pk in good.values_list("kind", "phase", "pk")}.values()
