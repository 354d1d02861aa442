"""One thing that went wrong on purpose, and when and how its run was healed."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tools.wrong_reaps import Run


def ended(run: Run) -> bool:
    """Whether the row tells the truth again: nobody works on the run, and it says so."""
    return run.finished


def completed(run: Run) -> bool:
    """Whether the work was done after all."""
    return run.status == "completed"


def finalized(run: Run) -> bool:
    """Whether a parent has the outcome of its children, who all completed or of whom some did."""
    return run.status == "completed" and run.finalized


@dataclass
class Trouble:
    """A stuck run. `happened_at` is when its row became untrue, `parent` the job that must be finalized with it."""

    what: str
    name: str
    run: str
    left_behind: str
    is_healed: Callable[[Run], bool]
    parent: str = ""
    happened_at: float | None = None
    healed_at: float | None = None
    healing: str = ""

    def happen(self) -> None:
        """Note that the row has just become untrue."""
        self.happened_at = time.time()

    def look(self, run: Run, parent: Run) -> bool:
        """Note the healing when these rows show it for the first time; True then."""
        if self.happened_at is None or self.healed_at is not None:
            return False
        if not self.is_healed(run) or (self.parent and not finalized(parent)):
            return False
        self.healed_at = time.time()
        self.healing = f"{run.status}, and its parent {parent.status}" if self.parent else run.status
        return True

    @property
    def recovery(self) -> float:
        """Return how long the row was untrue, in seconds; 0 while it still is."""
        return self.healed_at - self.happened_at if self.healed_at and self.happened_at else 0.0
