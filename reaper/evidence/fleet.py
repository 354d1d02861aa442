"""All workers at one moment, as their heartbeats show them."""

from collections.abc import Hashable, Sequence
from datetime import datetime
from functools import cached_property

from django.db import router

from reaper.conf import clock
from reaper.core import brake
from reaper.core.brake import MassSilence
from reaper.core.facts import Evidence
from reaper.evidence import uncertainties
from reaper.models import WorkerHeartbeat
from reaper.workers.registry import Worker, load_workers
from reaper.workers.timing import DEAD_AFTER, MAX_HEARTBEAT_AGE, MAX_LIST_AGE


def load_fleet() -> "Fleet":
    """Return the workers as the database shows them now. Raises django.db.Error."""
    using = router.db_for_write(WorkerHeartbeat)
    now = clock.now(using)
    return Fleet(load_workers(using, now), now)


class Fleet:
    """The workers, dead or alive, and what follows from their heartbeats. Tasks are named by id."""

    def __init__(self, workers: Sequence[Worker], now: datetime) -> None:
        """Index the workers, which were loaded at `now` by their database's clock."""
        self.now = now
        self.workers = workers
        self.live = [worker for worker in workers if worker.alive]
        self.by_name = {worker.name: worker for worker in workers}
        """Every worker, by "hostname/incarnation"."""
        self.holders = {task_id: worker for worker in self.live for task_id in worker.held}
        """The live worker that holds a task. Another one may have a second copy: the one that executes it counts."""
        self.holders |= {task_id: worker for worker in self.live for task_id in worker.active}
        dead = sorted((worker for worker in workers if not worker.alive), key=lambda worker: worker.seen_at)
        self.last_holders = {task_id: worker for worker in dead for task_id in worker.held}
        """The dead worker whose last heartbeat names a task; of several the one with the latest heartbeat."""
        self.queues = {queue for worker in workers for queue in worker.queues}
        self.hostnames = {worker.hostname for worker in self.live}
        self.shared_evidence: dict[Hashable, Evidence] = {}
        """The evidence on running runs, by everything that it depends on. Thousands of runs may share one."""
        self._mass_silences: dict[str, MassSilence | None] = {}

    @cached_property
    def watched_since(self) -> datetime | None:
        """Return since when all live workers have reported without a gap; None when none is alive."""
        return max((worker.since for worker in self.live), default=None)

    @cached_property
    def uncertainties(self) -> tuple[str, ...]:
        """Return why a task that no heartbeat names may be held all the same."""
        return tuple(uncertainties.incomplete_heartbeat(worker.name) for worker in self.live if not worker.complete)

    def find_witness(self, queue: str) -> str:
        """Return a worker of the queue that has reported without a gap for at least `DEAD_AFTER`; '' without one.

        When all were silent, the database or the network may have failed, and a worker that has just come back proves
        nothing about the others, which may be about to. Nor does one that has missed a heartbeat itself: when all fall
        silent together, the first counts as dead some seconds before the last.
        """
        # guard: a witness has reported for long enough
        able = (worker for worker in self.live if queue in worker.queues and self.now - worker.since >= DEAD_AFTER)
        # guard: a witness has reported recently
        return next((worker.name for worker in able if self.now - worker.seen_at <= MAX_HEARTBEAT_AGE), "")

    def mass_silence(self, queue: str) -> MassSilence | None:
        """Return how many workers of the queue fell silent together, while none has come back; None when none did."""
        if queue not in self._mass_silences:
            consumers = [worker for worker in self.workers if queue in worker.queues]
            # guard: brake: most workers are silent
            self._mass_silences[queue] = brake.detect_mass_silence(consumers, DEAD_AFTER, self.now)
        return self._mass_silences[queue]

    def consumers(self, queue: str) -> set[str]:
        """Return the node names of the live workers that consume a queue."""
        return {worker.hostname for worker in self.live if queue in worker.queues}

    def all_reported_since(self, moment: datetime) -> bool:
        """Return whether there are live workers, and each has listed its tasks after the moment."""
        return bool(self.live) and all(worker.seen_at - MAX_LIST_AGE > moment for worker in self.live)
