"""Django signals that the reaper sends, and the arguments that each of them carries.

Each signal has a protocol that names its arguments and their types, for a receiver to be checked against. Signals are
sent after the commit; a receiver that raises is logged and stops nothing. Connect receivers in `AppConfig.ready()`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

from django.db.models import Model
from django.dispatch import Signal

from reaper.adapters import RunAdapter, RunFacts
from reaper.core.decisions import Decision
from reaper.models import Alert, Sweep

__all__ = ["AlertedReceiver", "ReapedReceiver", "SweptReceiver", "alerted", "reaped", "swept"]


class ReapedReceiver(Protocol):
    """A receiver of `reaped`: a run was failed, closed, requeued or republished."""

    def __call__(self, sender: type[RunAdapter], *, run: RunFacts, decision: Decision, **kwargs: Any) -> object:
        """`run`: as it was before; `decision`: what was done, and why."""


class SweptReceiver(Protocol):
    """A receiver of `swept`: a sweep has ended, well or badly."""

    def __call__(self, sender: type[Sweep], *, sweep: Sweep, **kwargs: Any) -> object:
        """`sweep`: its row, with counts and errors."""


class AlertedReceiver(Protocol):
    """A receiver of `alerted`: an alert was opened or resolved. Sent once for each of the two."""

    def __call__(
        self,
        sender: type[RunAdapter] | type[Model],
        *,
        alert: Alert,
        reason: str,
        state: Literal["opened", "resolved"],
        message: str,
        now: datetime,
        runs: Sequence[RunFacts],
        **kwargs: Any,
    ) -> object:
        """Handle an alert.

        `sender`: the adapter's class, or `Alert` for an alert that concerns no kind; `alert`: its row; `reason`: its
        name, as in docs/ALERTS.md; `message`: a sentence; `now`: the database's time; `runs`: when opened, the runs
        that it is about.
        """


reaped = Signal()
swept = Signal()
alerted = Signal()
