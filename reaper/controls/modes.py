"""What people have switched for a kind of runs: its mode, a pause, a release of the brake. The newest row counts."""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import connections, transaction

from reaper.adapters import RunAdapter
from reaper.conf import settings as conf
from reaper.core.formatting import one_line
from reaper.core.policy import Mode
from reaper.db.expressions import InValues
from reaper.models import Exemption, KindControl

logger = logging.getLogger(__name__)

# Nobody remembers after a year what was switched, and why.
LONGEST = timedelta(days=366)


class State(NamedTuple):
    """How a kind is switched at a moment."""

    mode: Mode
    # It is off until then, whatever else is said.
    paused_until: datetime | None = None
    # Somebody has looked: the brake holds nothing.
    released: bool = False
    # Who switched it last, '' when nobody ever has; and whether that named a mode.
    actor: str = ""
    named: bool = False


def state_of(adapter: RunAdapter, now: datetime) -> State:
    """Return how a kind is switched: as the settings say, unless somebody has said otherwise since."""
    by_settings, row = conf.policy(adapter).mode, latest(adapter)
    if row is None:
        return State(by_settings)
    paused = row.paused_until if row.paused_until and now < row.paused_until else None
    # A word that no version knows is none that could be obeyed.
    mode = Mode(row.mode) if row.mode in list(Mode) else by_settings
    released = row.released_until is not None and now < row.released_until
    return State(Mode.OFF if paused else mode, paused, released, row.actor, bool(row.mode))


def latest(adapter: RunAdapter) -> KindControl | None:
    """Return what was switched last."""
    return KindControl.objects.using(adapter.using).filter(kind=adapter.kind).order_by("-id").first()


def set_controls(adapter: RunAdapter, by: str, now: datetime, **changes: Any) -> KindControl:
    """Change some of `mode` ('' is what the settings say), `paused_until` and `released_until`; return the new row."""
    with transaction.atomic(using=adapter.using):
        # Whoever switches at the same moment waits for the kind's first row, and then reads what the other has written.
        # guard: two who switch at once
        list(KindControl.objects.using(adapter.using).filter(kind=adapter.kind).order_by("id").select_for_update()[:1])
        row = latest(adapter) or KindControl(kind=adapter.kind)
        for name, value in {"pk": None, "created_at": now, "actor": by, **changes}.items():
            setattr(row, name, value)
        row.save(using=adapter.using, force_insert=True)
    logger.warning("%s was switched by %s: %s", adapter.kind, one_line(by) or "nobody", row.summary)
    return row


def exempt_ids(adapter: RunAdapter, pks: Sequence[str], now: datetime) -> set[str]:
    """Return those of the runs that are to be left alone now."""
    rows = Exemption.objects.using(adapter.using).filter(InValues("run_id", pks), kind=adapter.kind)
    return {row.run_id for row in rows if row.until is None or now < row.until}


def exempt_run(adapter: RunAdapter, pk: str, by: str, now: datetime, until: datetime | None) -> Exemption:
    """Have one run be left alone, until then or, with None, for good; return the row. Again is a new end."""
    values = {"actor": by, "created_at": now, "until": until}
    return Exemption.objects.using(adapter.using).update_or_create(kind=adapter.kind, run_id=pk, defaults=values)[0]


def exempt_runs(adapter: RunAdapter, pks: Sequence[str], by: str, now: datetime) -> None:
    """Have runs be left alone for good."""
    rows = [Exemption(kind=adapter.kind, run_id=pk, actor=by, created_at=now) for pk in pks]
    # MySQL finds out by itself which constraint is in the way, and refuses to be told.
    targeted = connections[adapter.using].features.supports_update_conflicts_with_target
    target = ["kind", "run_id"] if targeted else None
    Exemption.objects.using(adapter.using).bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=target,
        update_fields=["actor", "created_at", "until"],
        batch_size=500,
    )


def remove_exemption(adapter: RunAdapter, pk: str) -> bool:
    """End a run's exemption; True when there was one."""
    return bool(Exemption.objects.using(adapter.using).filter(kind=adapter.kind, run_id=pk).delete()[0])
