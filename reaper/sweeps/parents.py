"""A sweep of parents: adapter -> `Sweep`. Completes those whose children have all ended."""

from reaper.adapters import RunAdapter
from reaper.core.policy import Mode, SweepScope
from reaper.models import Sweep
from reaper.sweeps.dry_run import record_parent
from reaper.sweeps.mode import ModeWatch
from reaper.sweeps.record import SweepLog
from reaper.sweeps.writer import GuardedWriter


def finalize_parents(adapter: RunAdapter) -> Sweep:
    """Complete the parents whose children have all ended; return the `Sweep` row, which records what went wrong."""
    log = SweepLog(adapter, SweepScope.PARENTS)
    watch = ModeWatch(log)
    writer = GuardedWriter(log)
    with log.errors_recorded():
        for parent in adapter.iter_finalizable_parents() if watch.mode is not Mode.OFF else ():
            log.row.scanned += 1
            if watch.mode is Mode.DRY_RUN:
                record_parent(adapter, parent, log.now)
            elif not watch.is_stopped():
                writer.finalize(parent)
    return log.close()
