"""A fault caused on purpose, and when and how its run was recovered."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tools.wrong_reaps import Run


def ended(run: Run) -> bool:
    """Return whether the run has ended."""
    return run.finished


def completed(run: Run) -> bool:
    """Return whether the run was completed."""
    return run.status == "completed"


def finalized(run: Run) -> bool:
    """Return whether a parent, some or all of whose children completed, was finalized as completed."""
    return run.status == "completed" and run.finalized


@dataclass
class Fault:
    """A stuck run. `happened_at` is when its row became stale, `parent` the job that must be finalized with it."""

    what: str
    name: str
    run: str
    left_behind: str
    is_recovered: Callable[[Run], bool]
    parent: str = ""
    happened_at: float | None = None
    recovered_at: float | None = None
    outcome: str = ""

    def happen(self) -> None:
        """Record that the row has just become stale."""
        self.happened_at = time.time()

    def update(self, run: Run, parent: Run) -> bool:
        """Record the recovery when these rows first show it; return whether they did."""
        if self.happened_at is None or self.recovered_at is not None:
            return False
        if not self.is_recovered(run) or (self.parent and not finalized(parent)):
            return False
        self.recovered_at = time.time()
        self.outcome = f"{run.status}, and its parent {parent.status}" if self.parent else run.status
        return True

    @property
    def recovery(self) -> float:
        """Return for how many seconds the row was stale; 0 while it still is."""
        return self.recovered_at - self.happened_at if self.recovered_at and self.happened_at else 0.0
