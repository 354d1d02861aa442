"""The seam to a host: subclass `ModelRunAdapter`, or `RunAdapter` where the runs are no rows of a model."""

from reaper.adapters.model import Message, ModelRunAdapter, OwnerNotification, PhaseSummary, RunAdapter, RunUpdate

__all__ = ["Message", "ModelRunAdapter", "OwnerNotification", "PhaseSummary", "RunAdapter", "RunUpdate"]
