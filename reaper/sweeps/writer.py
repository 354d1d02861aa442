"""Write: `RunUpdate`s -> those that were applied. The only place where a sweep changes runs and parents."""

import logging
from collections.abc import Sequence

from django.db import Error, OperationalError, transaction

from reaper.adapters import RunUpdate
from reaper.core.formatting import one_line
from reaper.core.sweep_errors import ErrorCode
from reaper.db.transactions import short_transaction
from reaper.ledger.manual import record_finalization
from reaper.ledger.writing import record_updates
from reaper.sweeps.record import SweepLog

logger = logging.getLogger(__name__)

BATCH = 500
"""Runs per transaction: a worker's write to one of them waits for some 20 ms (docs/BENCHMARKS.md).

More gains little.
"""
MAX_DB_ERRORS = 5
"""Timeouts and lost connections after which the rest is deferred to the next sweep.

At 5 s each, a database that is too slow for everything holds a sweep for half a minute and no longer.
"""


class GuardedWriter:
    """Writes runs that are unchanged since they were read, together with their ledger entries: both or neither.

    So a sweep may be cut off anywhere, run twice, or overlap with another.
    """

    def __init__(self, log: SweepLog) -> None:
        self.log = log
        self.adapter = log.adapter
        self.db_errors = 0

    @property
    def has_given_up(self) -> bool:
        """Return whether the database failed too often for this sweep to write any more."""
        return self.db_errors >= MAX_DB_ERRORS

    def write(self, updates: Sequence[RunUpdate]) -> Sequence[RunUpdate]:
        """Write the updates in one transaction; return those that were applied. Raise nothing.

        The ledger is only ever added to: a batch of which some runs have changed is rolled back, and written without
        them. When a batch as a whole fails, each run is tried alone, so that one bad row does not stop the others.
        """
        while updates:
            # guard: a slow database ends the sweep
            if self.has_given_up:
                sentence = "too many database errors; the remaining runs are deferred"
                self.log.add_error(ErrorCode.DATABASE, sentence)
                self.log.row.deferred += len(updates)
                return []
            try:
                applied = self.try_write(updates)
            except Exception as error:
                self.db_errors += isinstance(error, OperationalError)
                if len(updates) > 1:
                    return [update for each in updates for update in self.write([each])]
                self._record_failure(f"{updates[0].run.pk} could not be written", error)
                return []
            self.log.row.conflicts += len(updates) - len(applied)
            if len(applied) == len(updates):
                break
            updates = applied
        return updates

    def try_write(self, updates: Sequence[RunUpdate]) -> Sequence[RunUpdate]:
        """Write a batch; return the updates that could be applied. Unless that is all of them, nothing is written."""
        self.log.open()
        # guard: ledger entry in the same transaction
        with short_transaction(self.adapter.using):
            # Before the runs: it takes longer, and no worker's write waits for it while no run is locked.
            record_updates(self.adapter, updates, self.log.now, self.log.row, self.log.actor)
            applied = self.adapter.apply(updates, self.log.now)
            # guard: no ledger entry without a write
            if len(applied) < len(updates):
                transaction.set_rollback(True, using=self.adapter.using)
        return applied

    def finalize(self, parent: str) -> None:
        """Complete a parent, with its ledger entry in the same transaction. Raise nothing."""
        self.log.open()
        try:
            with short_transaction(self.adapter.using):
                if self.adapter.finalize(parent):
                    record_finalization(self.adapter, parent, self.log.now, self.log.row, self.log.actor)
                    self.log.row.finalized += 1
        except Exception as error:
            self._record_failure(f"parent {parent} could not be finalized", error)

    def _record_failure(self, failure: str, error: Exception) -> None:
        logger.exception("%s: %s", self.adapter.kind, one_line(failure))
        code = ErrorCode.DATABASE if isinstance(error, Error) else ErrorCode.ADAPTER
        self.log.add_error(code, f"{failure}: {type(error).__name__}: {error}")
