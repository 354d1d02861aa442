"""Last step of a sweep: what was counted and what went wrong -> the `Sweep` row."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from reaper.adapters import RunAdapter
from reaper.conf import clock
from reaper.core.formatting import one_line
from reaper.core.sweep_errors import ErrorCode, SweepError
from reaper.ledger.totals import count_closed_sweeps
from reaper.models import Sweep
from reaper.signals import swept

logger = logging.getLogger(__name__)


class SweepLog:
    """The `Sweep` row of one sweep: opened before its first act, filled on the way, closed once."""

    def __init__(self, adapter: RunAdapter, scope: str, actor: str = "") -> None:
        """Begin the record. `actor`: the person who asked for the sweep; '' is the reaper itself."""
        self.adapter = adapter
        self.actor = actor
        # Read before anything else: if ages are off, then runs look younger than they are.
        self.now = clock.now(adapter.using)
        self.row = Sweep(kind=adapter.kind, phase=scope, started_at=self.now)
        self.counts: Counter[str] = Counter()
        """Number of runs by reason."""
        self.errors: list[SweepError] = []
        self.all_revoked = True
        """Whether the broker has taken every revoke so far."""

    def add_error(self, code: ErrorCode, message: object) -> None:
        """Add one error, once; its message is made one line."""
        error = SweepError(code, one_line(message))
        if error not in self.errors:
            self.errors.append(error)

    def add_hold(self, hold: SweepError | None) -> None:
        """Add what holds the sweep back, if anything does."""
        if hold is not None and hold not in self.errors:
            self.errors.append(hold)

    @contextmanager
    def errors_recorded(self) -> Iterator[None]:
        """Record an exception of the block instead of raising it, so that the sweep is closed properly."""
        try:
            yield
        except Exception as error:
            logger.exception("%s: the sweep of %s runs was cut short", self.adapter.kind, self.row.phase)
            self.add_error(ErrorCode.CUT_SHORT, f"cut short: {type(error).__name__}: {error}")

    def open(self) -> None:
        """Save the row before the first act: a sweep that is cut off leaves it behind, without an end."""
        if self.row.pk is None:
            self.row.save(using=self.adapter.using)

    def close(self) -> Sweep:
        """Save the end of the sweep, count what it did, log it and send `swept`; return the row.

        A sweep that had no effect leaves no row of its own: its kind's idle row moves on to its times.
        """
        row = self.row
        row.counts = dict(self.counts)
        row.errors = [error.as_json() for error in self.errors]
        row.finished_at = clock.now(self.adapter.using)
        # guard: a pending revoke
        row.revoked_at = row.finished_at if self.all_revoked else None
        if row.had_effect or self.actor:
            self._save_end()
        else:
            row = self._move_idle_row()
        self._count()
        swept.send_robust(sender=Sweep, sweep=row)
        return row

    def _save_end(self) -> None:
        row = self.row
        # Not `counted`: another sweep that closes sets it.
        names = [field.name for field in Sweep._meta.concrete_fields if field.name not in ("id", "counted")]
        row.save(using=self.adapter.using, update_fields=names if row.pk else None)
        log = logger.warning if row.errors else logger.info
        log("swept %s %s: %s", row.kind, row.phase, row.summary)

    def _move_idle_row(self) -> Sweep:
        row = self.row
        using = self.adapter.using
        if row.pk is not None:
            row.delete(using=using)
        names = ("started_at", "finished_at", "mode", "scanned", "counts")
        values = {name: getattr(row, name) for name in names}
        # It has no entries, so there is nothing to count.
        idle = Sweep.objects.using(using).update_or_create(
            kind=row.kind, phase=row.phase, idle=True, defaults={**values, "counted": True}
        )
        return idle[0]

    def _count(self) -> None:
        try:
            count_closed_sweeps(self.adapter.using, self.now)
        except Exception:
            # What is not counted now is counted when the next sweep closes.
            logger.exception("%s: what the sweeps did could not be counted yet", self.adapter.kind)
