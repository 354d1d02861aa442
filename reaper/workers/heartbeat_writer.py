"""Write a worker's heartbeat: one row per worker, rewritten for as long as it lives."""

import logging
from collections.abc import Callable

from django.db import connections, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Case, F, When
from django.db.models.functions import Now

from reaper.models import WorkerHeartbeat
from reaper.workers.heartbeat_connection import BackendSession, backend_session, own_connection, set_statement_timeout
from reaper.workers.heartbeat_report import Report
from reaper.workers.identity import WorkerIdentity
from reaper.workers.timing import MAX_GAP

logger = logging.getLogger(__name__)


class HeartbeatWriter:
    """Writes one worker's heartbeats over a connection of its own. Use it in a single thread."""

    def __init__(self, identity: WorkerIdentity) -> None:
        """Write the row of this worker."""
        self.identity = identity
        self.connection: BaseDatabaseWrapper | None = None
        self._session: BackendSession | None = None

    def write(self, collect: Callable[[], Report], *, last: bool = False) -> None:
        """Update the worker's row, or create it; `last` records that the worker has ended.

        Raises django.db.Error. `collect` is called last, so that its timestamp and the database's are close.
        """
        using = router.db_for_write(WorkerHeartbeat)
        connection = self._connect(using)
        with transaction.atomic(using):
            if connection.vendor == "postgresql":
                set_statement_timeout(connection)
            # Read once per connection, and only now that its statements are limited.
            self._session = self._session or backend_session(connection)
            values = {
                **collect()._asdict(),
                "backend_pid": self._session.pid,
                "backend_start": self._session.started_at,
                "seen_at": Now(),
            }
            if last:
                values["ended_at"] = Now()
            rows = WorkerHeartbeat.objects.using(using).filter(**self.identity._asdict())
            since = Case(When(seen_at__lt=Now() - MAX_GAP, then=Now()), default=F("since"))
            if not rows.update(**values, since=since):
                rows.create(**self.identity._asdict(), **values, since=Now())

    def disconnect(self) -> None:
        """Drop the connection, in whatever state it is. Raises nothing."""
        connection = self.connection
        self.connection = None
        self._session = None
        try:
            if connection is not None:
                connection.close()
        except Exception:
            logger.debug("closing the connection of the heartbeats failed", exc_info=True)

    def _connect(self, using: str) -> BaseDatabaseWrapper:
        """Return this thread's own connection; open it, as Django's for this thread, when there is none."""
        if self.connection is None:
            self.connection = own_connection(using)
            connections[using] = self.connection
        return self.connection
