"""The single runs that operators have exempted from recovery."""

from collections.abc import Sequence
from datetime import datetime

from django.db import connections

from reaper.adapters import RunAdapter
from reaper.db.expressions import InValues
from reaper.models import Exemption

BATCH = 500
"""Rows written by one statement."""


def exempt_ids(adapter: RunAdapter, pks: Sequence[str], now: datetime) -> set[str]:
    """Return those of the runs that are exempt now."""
    rows = Exemption.objects.using(adapter.using).filter(InValues("run_id", pks), kind=adapter.kind)
    return {row.run_id for row in rows if row.until is None or now < row.until}


def exempt_run(adapter: RunAdapter, pk: str, actor: str, now: datetime, until: datetime | None) -> Exemption:
    """Exempt one run, with no expiry where `until` is None; return its row. Exempting it again sets a new expiry."""
    values = {"actor": actor, "created_at": now, "until": until}
    return Exemption.objects.using(adapter.using).update_or_create(kind=adapter.kind, run_id=pk, defaults=values)[0]


def exempt_runs(adapter: RunAdapter, pks: Sequence[str], actor: str, now: datetime) -> None:
    """Exempt runs with no expiry."""
    rows = [Exemption(kind=adapter.kind, run_id=pk, actor=actor, created_at=now) for pk in pks]
    # MySQL determines the conflicting constraint by itself, and accepts no target.
    accepts_target = connections[adapter.using].features.supports_update_conflicts_with_target
    Exemption.objects.using(adapter.using).bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["kind", "run_id"] if accepts_target else None,
        update_fields=["actor", "created_at", "until"],
        batch_size=BATCH,
    )


def remove_exemption(adapter: RunAdapter, pk: str) -> bool:
    """End a run's exemption; return whether there was one."""
    return bool(Exemption.objects.using(adapter.using).filter(kind=adapter.kind, run_id=pk).delete()[0])
