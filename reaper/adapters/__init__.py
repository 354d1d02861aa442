"""The seam to a host: subclass `ModelRunAdapter`, or `RunAdapter` where the runs are no rows of a model."""

from reaper.adapters.model import Change, Load, Message, ModelRunAdapter, RunAdapter, Told

__all__ = ["Change", "Load", "Message", "ModelRunAdapter", "RunAdapter", "Told"]
