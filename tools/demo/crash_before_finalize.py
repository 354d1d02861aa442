"""A crawl worker that is killed between a child's commit and the finalization of its parent.

    celery -A tools.demo.crash_before_finalize worker --pool solo -Q crashing

Worker, crawl and commit are real. Only the moment of the kill is chosen, because the window is too short to be hit
from outside.
"""

import os
import signal
from typing import Any

from celery.signals import worker_ready

from config.celery import app

__all__ = ["app"]


@worker_ready.connect
def crash_on_finalize(**_: Any) -> None:
    """Replace the finalization by a SIGKILL of this process."""
    from apps.sources import parents

    parents.finalize = die


def die(parent: Any) -> bool:
    """End this process without any clean-up, as the kernel's out-of-memory killer does."""
    os.kill(os.getpid(), signal.SIGKILL)
    return False
