"""The heartbeat thread's own database connection, with limits: a hanging database stops the heartbeats only."""

from collections import deque
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import load_backend

from reaper.workers import timing

# Connection options by Django's vendor name. On a unix socket libpq ignores those of TCP.
CONNECTION_OPTIONS: dict[str, dict[str, Any]] = {
    "postgresql": {
        "connect_timeout": timing.WRITE_TIMEOUT_S,
        "tcp_user_timeout": timing.WRITE_TIMEOUT_S * 1000,  # milliseconds
        "keepalives": 1,
        "keepalives_idle": timing.WRITE_TIMEOUT_S,
        "keepalives_interval": 1,
        "keepalives_count": 2,
    },
    "sqlite": {"timeout": timing.WRITE_TIMEOUT_S},
}


class BackendSession(NamedTuple):
    """A session of the PostgreSQL server; it ends when the process at the other end does."""

    pid: int | None = None
    """The process id of the server's process; None if the session may be another client's."""
    started_at: datetime | None = None
    """When the session started: a number may be given to another session later."""


def own_connection(using: str) -> BaseDatabaseWrapper:
    """Return a new connection to the database, with time-outs, and without a pool that would outlive the thread."""
    settings = {**connections.databases[using], "AUTOCOMMIT": True}
    backend = load_backend(settings["ENGINE"])
    options = {name: value for name, value in settings["OPTIONS"].items() if name != "pool"}
    settings["OPTIONS"] = {**options, **CONNECTION_OPTIONS.get(backend.DatabaseWrapper.vendor, {})}
    connection = backend.DatabaseWrapper(settings, using)
    # With DEBUG Django keeps every query, and these go on for as long as the worker lives.
    connection.queries_log = deque(maxlen=0)
    return connection


def set_statement_timeout(connection: BaseDatabaseWrapper) -> None:
    """Limit every statement of this transaction, and of no other: a pooler may give the next one to another client."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", [f"{timing.WRITE_TIMEOUT_S}s"])


def backend_session(connection: BaseDatabaseWrapper) -> BackendSession:
    """Return the connection's session, where it ends when this process does; an empty one elsewhere.

    A pooler in between keeps its sessions open. It is recognized by the session's number, which then differs between
    the client and the server.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()")
            session = BackendSession(*cursor.fetchone())
        if connection.connection.info.backend_pid == session.pid:
            return session
    return BackendSession()
