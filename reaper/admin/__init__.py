"""The admin: the overview, the records, which can be read and not changed, and what people order."""

from reaper.admin import orders, records

__all__ = ["orders", "records"]
