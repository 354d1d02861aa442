"""How a kind is switched, at the start of a sweep and before each batch."""

from reaper.conf import clock
from reaper.controls.modes import state_of
from reaper.core.policy import Mode
from reaper.core.sweep_errors import ErrorCode
from reaper.sweeps.record import SweepLog


class ModeWatch:
    """The mode of a sweep: read when it begins, and again before it acts."""

    def __init__(self, log: SweepLog) -> None:
        """Read the mode, and record it in the row."""
        self.log = log
        self.mode = state_of(log.adapter, log.now).mode
        log.row.mode = str(self.mode)

    @property
    def is_acting(self) -> bool:
        """Return whether the sweep began in `Mode.ACT`, and has not been found to be switched off since."""
        return self.mode is Mode.ACT

    def is_stopped(self) -> bool:
        """Return whether the sweep may not, or no longer, act; record if it was switched off in the meantime."""
        if self.is_acting:
            adapter = self.log.adapter
            self.mode = state_of(adapter, clock.now(adapter.using)).mode
            if not self.is_acting:
                sentence = "switched off during the sweep; the remaining runs were skipped"
                self.log.add_error(ErrorCode.SWITCHED_OFF, sentence)
        return not self.is_acting
