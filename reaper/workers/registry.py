"""The workers, dead or alive, as read from their stored heartbeats."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from django.db import connections

from reaper.models import WorkerHeartbeat
from reaper.workers.liveness import has_session, is_alive
from reaper.workers.timing import DEAD_AFTER

# How long a heartbeat is kept that no unfinished run names.
REPORT_RETENTION = timedelta(days=1)
LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """One worker, as its last heartbeat describes it."""

    hostname: str
    """The node name by which Celery knows it."""
    incarnation: str
    """Which start of that node it is: a worker and its successor share the hostname."""
    seen_at: datetime
    """When the heartbeat was written, by the database's clock."""
    listed_at: datetime
    """When the worker took its lists of tasks, by its own clock."""
    since: datetime
    """Since when it has reported without a gap, by the database's clock."""
    active: Mapping[str, float]
    """When each running task started, by task id: seconds since the epoch, by the worker's clock."""
    held: frozenset[str]
    """The ids of all tasks that it holds: running, reserved, scheduled or rate-limited."""
    queues: frozenset[str]
    """The names of the queues that it consumes; none while it drains."""
    draining: bool
    """True once it shuts down: it takes no more tasks."""
    complete: bool
    """False when it may hold tasks that it does not name."""
    ended_at: datetime | None
    """When it shut down cleanly, by the database's clock; None while it runs, and after a crash."""
    alive: bool
    """Whether it counts as alive; see `reaper.workers.liveness`."""

    @property
    def name(self) -> str:
        """Return "hostname/incarnation", the name that a run's row carries."""
        return f"{self.hostname}/{self.incarnation}"

    @property
    def skew(self) -> timedelta:
        """Return what to add to a timestamp of the worker's clock to get the database's time."""
        return self.seen_at - self.listed_at


def load_workers(using: str, now: datetime) -> list[Worker]:
    """Return every worker that has a heartbeat, dead or alive: with one query, and on PostgreSQL one more.

    `using` is the alias of the database that has the heartbeats, `now` its time.
    """
    rows = list(WorkerHeartbeat.objects.using(using).order_by("pk").values())
    sessions = load_sessions(using, rows)
    return [parse_worker(row, sessions, now) for row in rows]


def load_sessions(using: str, rows: Iterable[Mapping[str, Any]]) -> Mapping[int, datetime | None]:
    """Return the start of each session that wrote one of the heartbeats and still exists, by its number."""
    pids = [row["backend_pid"] for row in rows if row["backend_pid"] is not None and row["ended_at"] is None]
    if not pids or connections[using].vendor != "postgresql":
        return {}
    with connections[using].cursor() as cursor:
        # Of another role's sessions PostgreSQL shows only the process id.
        cursor.execute("SELECT pid, backend_start FROM pg_stat_activity WHERE pid = ANY(%s)", [pids])
        return dict(cursor.fetchall())


def parse_worker(row: Mapping[str, Any], sessions: Mapping[int, datetime | None], now: datetime) -> Worker:
    """Return the worker of a heartbeat's row. A value that cannot be read is left out, and makes it incomplete."""
    active = parse_active(row["active"])
    held = parse_names(row["held"])
    queues = parse_names(row["queues"])
    seen_at = row["seen_at"] or LONG_AGO
    stamped = all(row[name] for name in ("seen_at", "listed_at", "since")) and seen_at <= now + DEAD_AFTER
    return Worker(
        hostname=row["hostname"],
        incarnation=row["incarnation"],
        seen_at=seen_at,
        listed_at=row["listed_at"] or seen_at,
        since=row["since"] or seen_at,
        active=active.started,
        held=held.names | active.task_ids,
        queues=queues.names,
        draining=bool(row["draining"]),
        complete=bool(row["complete"] and active.complete and held.complete and queues.complete and stamped),
        ended_at=row["ended_at"],
        alive=is_alive(row["ended_at"], seen_at, has_session(row, sessions), now),
    )


class ActiveTasks(NamedTuple):
    """The running tasks of a heartbeat."""

    started: Mapping[str, float]
    """The starts that could be read, by task id, in seconds since the epoch."""
    task_ids: frozenset[str]
    """All task ids, also those whose start could not be read."""
    complete: bool
    """Whether everything could be read."""


class Names(NamedTuple):
    """A list of names of a heartbeat."""

    names: frozenset[str]
    """Those that could be read."""
    complete: bool
    """Whether everything could be read."""


def parse_active(value: Any) -> ActiveTasks:
    """Return the running tasks of the JSON value {task id: start}."""
    if not isinstance(value, Mapping):
        return ActiveTasks({}, frozenset(), complete=False)
    started = {task_id: float(start) for task_id, start in value.items() if is_timestamp(start)}
    return ActiveTasks(started, frozenset(value), complete=len(started) == len(value))


def parse_names(value: Any) -> Names:
    """Return the names of the JSON value [name, …]."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return Names(frozenset(), complete=False)
    names = [each for each in value if isinstance(each, str)]
    return Names(frozenset(names), complete=len(names) == len(value))


def is_timestamp(value: Any) -> bool:
    """Return whether the value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def prune(using: str, now: datetime, keep: Collection[str]) -> None:
    """Delete the heartbeats that are older than `REPORT_RETENTION`, but not those of the workers named in `keep`."""
    old = WorkerHeartbeat.objects.using(using).filter(seen_at__lt=now - REPORT_RETENTION)
    kept = [pk for pk, *name in old.values_list("pk", "hostname", "incarnation") if "/".join(name) in keep]
    old.exclude(pk__in=kept).delete()
