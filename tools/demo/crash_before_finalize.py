"""A crawl worker that is killed between a child's commit and the finalization of its parent.

    celery -A tools.demo.crash_before_finalize worker --pool solo -Q doomed

Everything up to there is real: a real worker, a real crawl, the real commit. Only the moment of the kill is chosen: it
is too short to be hit from outside.
"""

import os
import signal
from typing import Any

from celery.signals import worker_ready

from config.celery import app

__all__ = ["app"]


@worker_ready.connect
def doom(**_: Any) -> None:
    """Put a SIGKILL of this process in the place of the finalization."""
    from apps.sources import parents

    parents.finalize = die


def die(parent: Any) -> bool:
    """End this process as the kernel would, without any clean-up."""
    os.kill(os.getpid(), signal.SIGKILL)
    return False
