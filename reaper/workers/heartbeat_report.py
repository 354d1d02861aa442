"""What a worker reports about itself, read from another thread of its main process."""

from collections import deque
from datetime import UTC, datetime
from typing import Any, NamedTuple

from celery import bootsteps
from celery.worker import state

from reaper.workers.held_tasks import TaskSnapshot, copy_live, json_safe_ids, snapshot_tasks, truncate, union
from reaper.workers.native_threads import unpatched
from reaper.workers.trouble_log import Trouble, TroubleLog

# Seconds between two snapshots of the lists: longer than Python lets a thread wait for its turn (5 ms).
SNAPSHOT_PAUSE_S = 0.01
SNAPSHOT_FAILED = Trouble("cannot determine which tasks it holds", "can determine again which tasks it holds")


class Report(NamedTuple):
    """The columns of a heartbeat that the worker fills; see `reaper.models.WorkerHeartbeat`."""

    listed_at: datetime
    """When the lists were taken, by the worker's own clock."""
    active: dict[str, float]
    """When each running task started, by task id, in seconds since the epoch."""
    held: list[str]
    """The ids of all other tasks that it holds, sorted."""
    queues: list[str]
    """The names of the queues that it consumes, sorted; none while it drains."""
    draining: bool
    """True once it takes no more tasks."""
    complete: bool
    """False when it may hold tasks, or consume queues, that are not named."""


class ReportCollector:
    """Reads one worker's state: what it holds, what it consumes, and whether it is shutting down."""

    def __init__(self, consumer: Any, troubles: TroubleLog) -> None:
        """Read the worker of this Celery consumer; what goes wrong goes to the log of troubles."""
        self.consumer = consumer
        self.controller = consumer.controller
        self.troubles = troubles
        # Set by a signal handler, the only one that Celery notifies before a warm shutdown has begun.
        self.shutdown_announced = False
        self._recent: deque[TaskSnapshot] = deque(maxlen=2)

    def has_ended(self) -> bool:
        """Return whether the worker's pool has ended."""
        return self.controller.blueprint.state == bootsteps.TERMINATE

    def is_draining(self) -> bool:
        """Return whether the worker takes no more tasks, also after a shutdown by remote control."""
        requested = (state.should_stop, state.should_terminate)
        is_running = self.controller.blueprint.state == bootsteps.RUN
        stopping = any(code is not None and code is not False for code in requested)
        return self.shutdown_announced or not is_running or stopping

    def collect(self) -> Report:
        """Return the current report. If Celery's internals raise, it is incomplete; the error is only logged."""
        listed_at = datetime.now(UTC)
        draining = self.is_draining()
        try:
            tasks, all_tasks = truncate(self.held_tasks())
            names = [] if draining else copy_live(self.consumer.app.amqp.queues.consume_from)
            queues = sorted(json_safe_ids(names))
        except Exception as error:  # Celery's internals may change: the worker lives, and what it holds is unknown
            self.troubles.log_trouble(SNAPSHOT_FAILED, error)
            return Report(listed_at, active={}, held=[], queues=[], draining=draining, complete=False)
        self.troubles.log_trouble(SNAPSHOT_FAILED, None)
        return Report(
            listed_at=listed_at,
            active=tasks.active,
            held=sorted(tasks.held),
            queues=queues,
            draining=draining,
            complete=all_tasks and len(queues) == len(names),
        )

    def held_tasks(self) -> TaskSnapshot:
        """Return the tasks that the worker holds.

        Two snapshots, because a single one may miss a task that moves from one of Celery's lists to the next.
        """
        first = snapshot_tasks(self.consumer)
        unpatched("time", "sleep")(SNAPSHOT_PAUSE_S)
        found = union([first, snapshot_tasks(self.consumer)])
        if state.should_terminate:
            # A cold shutdown clears the lists before it sets the flag: the tasks held until then were cut off.
            return union([*self._recent, found])
        self._recent.append(found)
        return found
