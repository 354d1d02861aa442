"""Which workers live, and what they hold: the reports as they are read."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connections

from reaper.models import WorkerHeartbeat
from reaper.workers.heartbeat import GAP

# Four reports missed: with nothing but silence to go by, the worker is dead.
DEAD_AFTER = timedelta(seconds=12)
# How long a report is kept that no unfinished run names.
REPORT_RETENTION = timedelta(days=1)
LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """One worker as its last report says."""

    hostname: str
    incarnation: str
    # By the database's clock, and by the worker's own when it took its lists.
    seen_at: datetime
    listed_at: datetime
    # It has been reporting without a gap since then, by the database's clock.
    since: datetime
    # Running tasks -> when they began, in seconds since the epoch by the worker's clock.
    active: Mapping[str, float]
    # The ids of all tasks that it holds, the running ones included.
    held: frozenset[str]
    queues: frozenset[str]
    draining: bool
    # False: it may hold tasks that are not named.
    complete: bool
    ended_at: datetime | None
    alive: bool

    @property
    def name(self) -> str:
        """Return "hostname/incarnation", which a run's row carries."""
        return f"{self.hostname}/{self.incarnation}"

    @property
    def skew(self) -> timedelta:
        """Return what is to be added to a stamp of the worker's clock to get the database's time."""
        return self.seen_at - self.listed_at


def load_workers(using: str, now: datetime) -> list[Worker]:
    """Return every worker that has a report, dead or alive: one query, and on PostgreSQL one more."""
    rows = list(WorkerHeartbeat.objects.using(using).order_by("pk").values())
    sessions = load_sessions(using, rows)
    return [parse_worker(row, sessions, now) for row in rows]


def load_sessions(using: str, rows: Iterable[Mapping[str, Any]]) -> Mapping[int, datetime | None]:
    """Return the start of each session that a report names and that is still there, by its number."""
    pids = [row["backend_pid"] for row in rows if row["backend_pid"] is not None and row["ended_at"] is None]
    if not pids or connections[using].vendor != "postgresql":
        return {}
    with connections[using].cursor() as cursor:
        # Of the sessions of other roles only the number is shown to all.
        cursor.execute("SELECT pid, backend_start FROM pg_stat_activity WHERE pid = ANY(%s)", [pids])
        return dict(cursor.fetchall())


def parse_worker(row: Mapping[str, Any], sessions: Mapping[int, datetime | None], now: datetime) -> Worker:
    """Return the worker that a row tells of. Whatever cannot be read is left out, and the report is then incomplete."""
    active, active_ids, well = parse_active(row["active"])
    held, all_held = parse_names(row["held"])
    queues, all_queues = parse_names(row["queues"])
    seen_at = row["seen_at"] or LONG_AGO
    stamped = all(row[name] for name in ("seen_at", "listed_at", "since")) and seen_at <= now + DEAD_AFTER
    return Worker(
        hostname=row["hostname"],
        incarnation=row["incarnation"],
        seen_at=seen_at,
        listed_at=row["listed_at"] or seen_at,
        since=row["since"] or seen_at,
        active=active,
        held=held | active_ids,
        queues=queues,
        draining=bool(row["draining"]),
        complete=bool(row["complete"] and well and all_held and all_queues and stamped),
        ended_at=row["ended_at"],
        alive=is_alive(row["ended_at"], seen_at, has_session(row, sessions), now),
    )


def is_alive(ended_at: datetime | None, seen_at: datetime, session: bool | None, now: datetime) -> bool:
    """Return whether a worker lives. `session`: whether its own is still there; None where that cannot be known."""
    silence = now - seen_at
    # guard: a worker is dead only after its silence
    if ended_at is not None or silence > DEAD_AFTER:
        return False
    # A session may also have been ended by hand: the worker then reports again at once, over a new one.
    return not (session is False and silence > GAP)


def has_session(row: Mapping[str, Any], sessions: Mapping[int, datetime | None]) -> bool | None:
    """Return whether the session that wrote the report is still there; None where the report names none."""
    pid, start = row["backend_pid"], row["backend_start"]
    if pid is None:
        return None
    return pid in sessions and (sessions[pid] is None or start is None or sessions[pid] == start)


def parse_active(value: Any) -> tuple[dict[str, float], frozenset[str], bool]:
    """Return the starts that can be read, all ids, and whether that is everything."""
    if not isinstance(value, Mapping):
        return {}, frozenset(), False
    starts = {each: float(start) for each, start in value.items() if is_number(start)}
    return starts, frozenset(value), len(starts) == len(value)


def parse_names(value: Any) -> tuple[frozenset[str], bool]:
    """Return the names that can be read, and whether those are all."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return frozenset(), False
    names = [each for each in value if isinstance(each, str)]
    return frozenset(names), len(names) == len(value)


def is_number(value: Any) -> bool:
    """Return whether the value is a number that is a time."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def prune(using: str, now: datetime, keep: Collection[str]) -> None:
    """Delete the reports of workers that have been silent for more than a day and are not named in `keep`."""
    old = WorkerHeartbeat.objects.using(using).filter(seen_at__lt=now - REPORT_RETENTION)
    kept = [pk for pk, *name in old.values_list("pk", "hostname", "incarnation") if "/".join(name) in keep]
    old.exclude(pk__in=kept).delete()
