"""Finds Celery runs that are stuck, revokes their tasks, fails or requeues them once, and records why.

What a project may import, and nothing else of this package:

    reaper.adapters          describe your runs: ModelRunAdapter, RunAdapter, Message, …
    reaper.api               functions for your own code: worker_name(), record_manual_dispatch(), …
    reaper.signals           reaped, swept, alerted
    reaper.admin             ReaperRunAdminMixin
    reaper.urls              /metrics
    reaper.celery_commands   `celery inspect query TASK_ID`
    reaper.testing           AdapterContract, the tests that your adapter must pass
    reaper.exceptions        ReaperError and its subclasses
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
