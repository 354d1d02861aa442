"""What a host imports to describe its runs to the reaper; docs/ADAPTERS.md is the guide.

Subclass `ModelRunAdapter`, or `RunAdapter` where the runs are not rows of a Django model.
"""

from reaper.adapters.base import Message, OwnerNotification, PhaseSummary, RunAdapter, RunUpdate
from reaper.adapters.model import ModelRunAdapter
from reaper.core.facts import Phase, RunFacts

__all__ = [
    "Message",
    "ModelRunAdapter",
    "OwnerNotification",
    "Phase",
    "PhaseSummary",
    "RunAdapter",
    "RunFacts",
    "RunUpdate",
]
