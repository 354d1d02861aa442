"""The sources of evidence for one kind: the queues, the heartbeats and the workers themselves.

Each is read when it is first needed, and no more often than necessary; each read is limited in time.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import cached_property

from reaper.adapters import RunAdapter
from reaper.broker.connection import Broker
from reaper.broker.queues import resolve_queue, scan_queues
from reaper.broker.snapshot import QueueSnapshot
from reaper.conf import clock
from reaper.conf import settings as conf
from reaper.core.policy import Policy
from reaper.evidence.fleet import Fleet, load_fleet
from reaper.workers.inspect import InspectionResult, inspect_workers

# Seconds for each of the two that use the broker: with everything hanging, together less than five.
SCAN_TIMEOUT_S = 2.0
INSPECT_TIMEOUT_S = 1.5
# Seconds for an inspection once every worker that was expected to answer has been silent in this sweep.
SILENT_FLEET_TIMEOUT_S = 0.2


class EvidenceSources:
    """The sources of one kind's evidence. `policy` and `now` are those of the sweep."""

    def __init__(
        self, adapter: RunAdapter, broker: Broker, policy: Policy, now: datetime, fleet: Fleet | None = None
    ) -> None:
        """Use this broker; load the fleet when it is first needed, unless one is given."""
        self.adapter = adapter
        self.broker = broker
        self.policy = policy
        self.now = now
        self.loaded_fleet = fleet
        """The workers as they were read last; None before that, and once they are out of date."""
        self.scanned_at: datetime | None = None
        """When the queues were scanned, by the clock of the runs' database; None when they were not."""
        # Nodes that have not answered an inspection: later ones do not wait for them, however many pages there are.
        self._unresponsive: set[str] = set()

    @cached_property
    def queue(self) -> str:
        """Return the queue that the kind's messages go to; '' when Celery's router fails."""
        return resolve_queue(self.adapter)

    @property
    def fleet(self) -> Fleet:
        """Return the workers."""
        if self.loaded_fleet is None:
            self.loaded_fleet = load_fleet()
        return self.loaded_fleet

    def refresh_fleet(self) -> None:
        """Read the heartbeats again the next time they are needed."""
        self.loaded_fleet = None

    @cached_property
    def queue_snapshot(self) -> QueueSnapshot:
        """Return what the broker's queues hold: the kind's own and those that any worker consumes."""
        queues = {self.queue, *self.fleet.queues} - {conf.QUEUE, ""}
        snapshot = scan_queues(self.broker, queues, SCAN_TIMEOUT_S)
        # A message may have reached a worker in the meantime: earlier heartbeats would not have it.
        self.refresh_fleet()
        self.scanned_at = clock.now(self.adapter.using)
        return snapshot

    @cached_property
    def latest_started_dispatch(self) -> datetime | None:
        """Return when the newest of the runs that have started was dispatched; see the adapter's method."""
        return self.adapter.latest_started_dispatch()

    def inspect(self, task_ids: Sequence[str]) -> InspectionResult:
        """Return the workers' own answers about these tasks."""
        # A draining worker does not answer.
        nodes = [worker.hostname for worker in self.fleet.live if not worker.draining]
        expected = [node for node in nodes if node not in self._unresponsive]
        seconds = SILENT_FLEET_TIMEOUT_S if self._unresponsive and not expected else INSPECT_TIMEOUT_S
        result = inspect_workers(self.broker, task_ids, expected, seconds)
        self._unresponsive |= set(expected) - result.responded_fully
        return result
