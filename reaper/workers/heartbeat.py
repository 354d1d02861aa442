"""What a worker says of itself: a thread in its main process writes one `WorkerReport` every 3 s, on every pool.

The thread is a native one, so neither a busy solo pool nor a CPU-bound greenlet silences it, and it has a database
connection of its own, so a hanging database silences nothing but it. It ends after the pool has. It runs no rules.
"""

import atexit
import logging
import sys
import time
import uuid
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import bootsteps
from celery.worker import state
from django.db import connections, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Case, F, When
from django.db.models.functions import Now
from django.db.utils import load_backend

from reaper.core.formatting import one_line
from reaper.models import WorkerHeartbeat
from reaper.workers.held_tasks import TaskSnapshot, copy_live, json_safe_ids, snapshot_tasks, truncate, union

logger = logging.getLogger(__name__)

INTERVAL = 3.0  # seconds between two reports
DEADLINE = 2  # seconds that one step of a write, or a wait for one, may take
# A longer silence than two intervals and one write's deadline is a gap.
GAP = timedelta(seconds=2 * INTERVAL + DEADLINE)
# Between two looks at the lists: longer than Python lets a thread wait for its turn (5 ms).
PAUSE = 0.01

# Troubles, as they and their ends are logged.
REPORT_FAILED = "cannot report to the reaper", "reports to the reaper again"
SNAPSHOT_FAILED = "cannot see which tasks it holds", "sees again which tasks it holds"

# Options of the connection; on a unix socket libpq passes over those of TCP.
OPTIONS: dict[str, dict[str, Any]] = {
    "postgresql": {
        "connect_timeout": DEADLINE,
        "tcp_user_timeout": DEADLINE * 1000,
        "keepalives": 1,
        "keepalives_idle": DEADLINE,
        "keepalives_interval": 1,
        "keepalives_count": 2,
    },
    "sqlite": {"timeout": DEADLINE},
}

hostname = incarnation = ""
reporter: "HeartbeatThread | None" = None


def worker_name() -> str:
    """Return "hostname/incarnation" of the worker that this runs in, also in its pool's children; '' elsewhere."""
    return f"{hostname}/{incarnation}" if incarnation else ""


def on_init(sender: Any, **_: Any) -> None:
    """Give the worker its incarnation, before its pool forks (Celery's `worker_init`)."""
    global hostname, incarnation
    hostname, incarnation = str(sender.hostname)[:255], uuid.uuid4().hex[:12]


def on_ready(sender: Any, **_: Any) -> None:
    """Start to report (Celery's `worker_ready`), and wait for the first report: no task has been taken yet."""
    global reporter
    if reporter is None and incarnation:
        reporter = HeartbeatThread(sender)
        # Not every end of a worker is announced by Celery: a cold shutdown is not.
        atexit.register(on_shutdown)
        unpatched("_thread", "start_new_thread")(reporter.run, ())
        reporter.reported.acquire(timeout=DEADLINE)


def on_shutting_down(**_: Any) -> None:
    """Say at once that the worker is ending (Celery's `worker_shutting_down`, sent by a signal's handler)."""
    if reporter:
        reporter.draining = True
        release(reporter.wake)


def on_shutdown(**_: Any) -> None:
    """Say goodbye once the pool has ended (Celery's `worker_shutdown`, or the process's exit).

    Where the pool has not ended, its children may outlive this call; then the reports go on until the process is gone.
    """
    if reporter and reporter.has_ended() and not reporter.leaving:
        reporter.leaving = True
        release(reporter.wake)
        reporter.gone.acquire(timeout=DEADLINE)


def unpatched(module: str, name: str) -> Any:
    """Return a function of the standard library as it was before gevent replaced it."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey.get_original(module, name) if monkey else getattr(sys.modules[module], name)


def held_lock() -> Any:
    """Return a native lock that is held: one may wait for its release, also in a signal's handler."""
    lock = unpatched("_thread", "allocate_lock")()
    lock.acquire()
    return lock


def release(lock: Any) -> None:
    """Release the lock; twice is once."""
    with suppress(RuntimeError):
        lock.release()


class HeartbeatThread:
    """The thread. `run` is its body; the other public names may be used by any thread."""

    def __init__(self, consumer: Any) -> None:
        self.consumer, self.controller = consumer, consumer.controller
        self.draining = self.leaving = False
        self.troubles: set[tuple[str, str]] = set()
        self.wake, self.reported, self.gone = held_lock(), held_lock(), held_lock()
        self.recent: deque[TaskSnapshot] = deque(maxlen=2)
        self.session: tuple[int | None, datetime | None] | None = None
        self.connection: BaseDatabaseWrapper | None = None

    def has_ended(self) -> bool:
        """True once the worker's pool has ended."""
        return self.controller.blueprint.state == bootsteps.TERMINATE

    def is_draining(self) -> bool:
        """True once the worker takes no more tasks. A restart or a shutdown by remote control is not announced."""
        asked = (state.should_stop, state.should_terminate)
        running = self.controller.blueprint.state == bootsteps.RUN
        return self.draining or not running or any(code is not None and code is not False for code in asked)

    def run(self) -> None:
        """Report until the goodbye. Nothing that goes wrong ends it."""
        last = False
        while not last:
            began, last = time.monotonic(), self.leaving
            with suppress(Exception):  # the log's own: everything else is told there
                self.report(last)
            release(self.reported)
            if not last:
                self.wake.acquire(timeout=max(0, began + INTERVAL - time.monotonic()))
        self.disconnect()
        release(self.gone)

    def report(self, last: bool = False) -> None:
        """Write one report; a write that failed is tried again at once, over a new connection."""
        try:
            try:
                self.write(last)
            except Exception:
                self.disconnect()
                self.write(last)
        except Exception as error:
            self.disconnect()
            self.tell(REPORT_FAILED, error)
        else:
            self.tell(REPORT_FAILED, None)

    def tell(self, trouble: tuple[str, str], error: Exception | None) -> None:
        """Log a trouble when it begins and when it is over, not with every report."""
        if error and trouble not in self.troubles:
            self.troubles.add(trouble)
            logger.warning(
                "%s %s: %s: %s", worker_name(), trouble[0], type(error).__name__, one_line(str(error).strip())
            )
        elif not error and trouble in self.troubles:
            self.troubles.discard(trouble)
            logger.warning("%s %s", worker_name(), trouble[1])

    def look(self) -> dict[str, Any]:
        """Return what is to be reported now."""
        listed_at = datetime.now(UTC)
        draining = self.is_draining()
        try:
            holding, complete = truncate(self.holding())
            names = [] if draining else copy_live(self.consumer.app.amqp.queues.consume_from)
            queues = sorted(json_safe_ids(names))
            self.tell(SNAPSHOT_FAILED, None)
        except Exception as error:  # Celery's insides are not promised: it lives, and what it holds is unknown
            self.tell(SNAPSHOT_FAILED, error)
            holding, complete, names, queues = TaskSnapshot({}, set()), False, [], []
        return {
            "listed_at": listed_at,
            "active": holding.active,
            "held": sorted(holding.held),
            "queues": queues,
            "draining": draining,
            "complete": complete and len(queues) == len(names),
        }

    def holding(self) -> TaskSnapshot:
        """Return what the worker holds. Two looks: a task that moves from one list to the next is missed by one."""
        first = snapshot_tasks(self.consumer)
        unpatched("time", "sleep")(PAUSE)
        found = union([first, snapshot_tasks(self.consumer)])
        if state.should_terminate:
            # A cold shutdown forgets its tasks before it says that it is one: what was held just now was cut off.
            return union([*self.recent, found])
        self.recent.append(found)
        return found

    def write(self, last: bool) -> None:
        """Update this worker's row, or make it. The look comes last: its stamp and the database's are then close."""
        using = router.db_for_write(WorkerHeartbeat)
        connection = self.connect(using)
        with transaction.atomic(using):
            if connection.vendor == "postgresql":
                set_statement_timeout(connection)
            # Asked once per connection, and only now that it is bounded.
            self.session = self.session or backend_session(connection)
            values = {**self.look(), **dict(zip(("backend_pid", "backend_start"), self.session, strict=True))}
            values |= {"seen_at": Now(), "ended_at": Now()} if last else {"seen_at": Now()}
            rows = WorkerHeartbeat.objects.using(using).filter(hostname=hostname, incarnation=incarnation)
            since = Case(When(seen_at__lt=Now() - GAP, then=Now()), default=F("since"))
            if not rows.update(**values, since=since):
                rows.create(hostname=hostname, incarnation=incarnation, **values, since=Now())

    def connect(self, using: str) -> BaseDatabaseWrapper:
        """Return this thread's own connection; make it, as Django's for this thread, when there is none."""
        if self.connection is None:
            self.connection = connections[using] = own_connection(using)
        return self.connection

    def disconnect(self) -> None:
        """Forget the connection, in whatever state it is."""
        connection, self.connection, self.session = self.connection, None, None
        try:
            if connection is not None:
                connection.close()
        except Exception:
            logger.debug("closing the connection of the reports failed", exc_info=True)


def own_connection(using: str) -> BaseDatabaseWrapper:
    """Return a new connection to the database, with deadlines, and without a pool that would outlive the thread."""
    settings = {**connections.databases[using], "AUTOCOMMIT": True}
    backend = load_backend(settings["ENGINE"])
    options = {name: value for name, value in settings["OPTIONS"].items() if name != "pool"}
    settings["OPTIONS"] = {**options, **OPTIONS.get(backend.DatabaseWrapper.vendor, {})}
    connection = backend.DatabaseWrapper(settings, using)
    # With DEBUG the queries are kept, and these go on for as long as the worker lives.
    connection.queries_log = deque(maxlen=0)
    return connection


def set_statement_timeout(connection: BaseDatabaseWrapper) -> None:
    """Bound every statement of this transaction. Of no other: behind a pooler the next one is somebody else's."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", [f"{DEADLINE}s"])


def backend_session(connection: BaseDatabaseWrapper) -> tuple[int | None, datetime | None]:
    """Return the number and the start of the connection's session, where it ends when this process does.

    A pooler in between keeps the session. It shows in that the client knows it by another number than the server.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()")
            pid, backend_start = cursor.fetchone()
        if connection.connection.info.backend_pid == pid:
            return pid, backend_start
    return None, None
