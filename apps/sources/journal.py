"""The tasks' own account of what they did: an append-only file, one JSON line per event.

Written only where `CRAWL_JOURNAL` names a file, which demos, benchmarks and live tests do. To find out whether the
reaper took a run from a task that was alive, one must not ask the reaper's own tables: this is the independent witness.
"""

import json
import os
import time
from typing import Any

from django.conf import settings
from django.dispatch import receiver

from apps.sources.claims import Claim, run_claimed, run_ending, write_refused


@receiver(run_claimed)
def write_claimed(claim: Claim, **_: Any) -> None:
    """Note that a task has taken its run."""
    write_event("claimed", run=claim.pk, task_id=claim.task_id, worker=claim.worker)


@receiver(run_ending)
def write_ending(claim: Claim, write: str, **_: Any) -> None:
    """Record that a task is about to release its run; first, so that readers of the row find the record."""
    write_event("ending", run=claim.pk, task_id=claim.task_id, write=write)


@receiver(write_refused)
def write_refusal(claim: Claim, write: str, **_: Any) -> None:
    """Note that a task was refused a write."""
    why = f"{write} of {claim.model.__name__} {claim.pk} by task {claim.task_id}"
    write_event("refused", run=claim.pk, task_id=claim.task_id, why=why)


def write_event(event: str, **facts: Any) -> None:
    """Append one event with the time (s since the epoch) and this process' id: in one write(), so it is never torn."""
    if not settings.CRAWL_JOURNAL:
        return
    line = json.dumps({"event": event, "at": time.time(), "pid": os.getpid(), **facts}, default=str) + "\n"
    file = os.open(settings.CRAWL_JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
