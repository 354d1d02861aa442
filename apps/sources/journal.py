"""What the tasks themselves say they did: an insert-only file, one JSON line per event.

Written only where `CRAWL_JOURNAL` names a file. Whoever wants to know whether the reaper took a run from a task that
was alive must not ask the reaper's own tables; this is the other witness.
"""

import json
import os
import time
from typing import Any

from django.conf import settings


def note(event: str, **facts: Any) -> None:
    """Append one event with the time (s since the epoch) and this process' id. One write() of one line: never torn."""
    if not settings.CRAWL_JOURNAL:
        return
    line = json.dumps({"event": event, "at": time.time(), "pid": os.getpid(), **facts}, default=str) + "\n"
    file = os.open(settings.CRAWL_JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
