"""The reaper's tables."""

from reaper.models.alerts import Alert
from reaper.models.controls import Exemption, KindControl, PolicyOverride
from reaper.models.history import CounterTotal, LedgerEntry, Observation, RefusedWrite, Sweep
from reaper.models.workers import MessageSighting, WorkerHeartbeat

__all__ = [
    "Alert",
    "CounterTotal",
    "Exemption",
    "KindControl",
    "LedgerEntry",
    "MessageSighting",
    "Observation",
    "PolicyOverride",
    "RefusedWrite",
    "Sweep",
    "WorkerHeartbeat",
]
