"""The reaper's tables."""

from reaper.models.alerts import Alert
from reaper.models.controls import Exemption, KindControl, PolicyOverride
from reaper.models.history import CounterTotal, LedgerEntry, LedgerQuerySet, RefusedWrite, Sweep
from reaper.models.workers import MessageSighting, WorkerHeartbeat

__all__ = [
    "Alert",
    "CounterTotal",
    "Exemption",
    "KindControl",
    "LedgerEntry",
    "LedgerQuerySet",
    "MessageSighting",
    "PolicyOverride",
    "RefusedWrite",
    "Sweep",
    "WorkerHeartbeat",
]
