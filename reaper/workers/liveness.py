"""The rules for which worker is alive: by its last heartbeat and the database session that wrote it. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from reaper.workers.timing import DEAD_AFTER, MAX_GAP


def is_alive(ended_at: datetime | None, seen_at: datetime, session: bool | None, now: datetime) -> bool:
    """Return whether a worker is alive.

    `ended_at` is when it shut down cleanly, `seen_at` its last heartbeat, and `session` whether the database session
    that wrote the heartbeat still exists; None where that cannot be known.
    """
    silence = now - seen_at
    # guard: a worker is dead only after DEAD_AFTER
    if ended_at is not None or silence > DEAD_AFTER:
        return False
    # An administrator may have ended the session: the worker then reports again at once, over a new one.
    return not (session is False and silence > MAX_GAP)


def has_session(row: Mapping[str, Any], sessions: Mapping[int, datetime | None]) -> bool | None:
    """Return whether the session that wrote a heartbeat still exists; None where the heartbeat names none.

    `row` has the columns `backend_pid` and `backend_start`; `sessions` is the start of each existing session by its
    number, None where this database role may not see it.
    """
    pid = row["backend_pid"]
    started_at = row["backend_start"]
    if pid is None:
        return None
    return pid in sessions and (sessions[pid] is None or started_at is None or sessions[pid] == started_at)
