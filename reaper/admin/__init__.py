"""The admin: the overview, the records, which can be read and not changed, and what people order."""

from reaper.admin import controls, history

__all__ = ["controls", "history"]
