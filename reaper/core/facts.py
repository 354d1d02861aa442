"""What is known of a run: the facts of its row, what was done to it before, and the evidence on its task. Pure data."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

# How far ahead of `now` a timestamp may be and still be believed, as being now: a run may be sent or claimed while a
# sweep is under way, and clocks differ. Falling back to an earlier one would take a run that has just begun for old.
MAX_CLOCK_AHEAD = timedelta(hours=1)


def hostname(worker: str) -> str:
    """Return the name by which Celery knows a worker, of "hostname/incarnation" or of the hostname alone."""
    return worker.rpartition("/")[0] or worker


class Phase(StrEnum):
    """Where a run is in its life; the adapter maps its own statuses to these."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """What the reaper did to a run before: applied actions since its last dispatch by hand, from the ledger."""

    requeues: int = 0
    redispatches: int = 0
    interruptions: int = 0
    last_action_at: datetime | None = None
    # The task id of the reaper's own last dispatch while the broker has not confirmed it, and when it was made.
    unpublished_task_id: str = ""
    unpublished_at: datetime | None = None


NO_HISTORY = History()


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """One row as it was read. Every fact may be missing; datetimes are aware."""

    kind: str
    pk: str
    phase: Phase
    status: str = ""
    task_id: str | None = ""
    worker: str = ""
    created_at: datetime | None = None
    queued_at: datetime | None = None
    started_at: datetime | None = None
    progress_at: datetime | None = None
    parent: str | None = None
    parent_ended: bool = False
    history: History = NO_HISTORY
    # A person wants it to be left alone.
    exempt: bool = False
    # What is to be added to the worker's stamps (start, progress) to have the database's time.
    skew: timedelta = timedelta(0)

    @property
    def last_activity_at(self) -> datetime | None:
        """Return the last start or progress, by the worker's own clock."""
        return max((stamp for stamp in (self.started_at, self.progress_at) if stamp), default=None)

    def since(self, now: datetime) -> datetime | None:
        """Return when the run's phase began: by the best of its timestamps that does not lie far in the future."""
        # Our own requeue is a dispatch, also where the host keeps no time of it.
        stamps = [self.queued_at, self.history.last_action_at, self.created_at]
        if self.phase is Phase.RUNNING:
            stamps = [self._corrected(self.started_at), self._corrected(self.progress_at), *stamps]
        return next((min(stamp, now) for stamp in stamps if stamp and stamp <= now + MAX_CLOCK_AHEAD), None)

    def age(self, now: datetime) -> timedelta | None:
        """Return how long the run has been in its phase, or None when no timestamp tells."""
        since = self.since(now)
        return None if since is None else now - since

    def idle_for(self, now: datetime) -> timedelta | None:
        """Return how long ago a running run started or made progress last; its age where neither is known."""
        sign = self._corrected(self.last_activity_at)
        return self.age(now) if sign is None or sign > now + MAX_CLOCK_AHEAD else now - min(sign, now)

    def _corrected(self, stamp: datetime | None) -> datetime | None:
        try:
            return stamp and stamp + self.skew
        except OverflowError:
            return stamp


class MessageLocation(StrEnum):
    """Where a queued run's message is."""

    WAITING = "waiting"
    DELIVERED = "delivered"  # to a worker that has not acknowledged it
    ABSENT = "absent"
    UNKNOWN = "unknown"


class Liveness(StrEnum):
    """What is known of the worker that claimed a run; UNKNOWN is also one that never reported."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What is known of the task behind a row; by default nothing. Times are the database's, but for one."""

    # The live worker that has the task ('' none is known to), and since when it executes it (None: it only keeps it).
    holder: str = ""
    active_since: datetime | None = None
    # No live worker has the task, and that is certain.
    absent: bool = False
    # A worker that consumes the run's queue and has reported without a gap for a whole silence limit.
    witness: str = ""
    # Since when all live workers have been reporting without a gap.
    fleet_watched_since: datetime | None = None
    # The worker that the row names: when it was last heard of, and its own clock when it listed its tasks then.
    claimant_liveness: Liveness = Liveness.UNKNOWN
    claimant_seen_at: datetime | None = None
    claimant_listed_at: datetime | None = None
    # A dead worker whose last report names the task.
    last_holder: str = ""
    # The dead worker had announced its end.
    shutdown_announced: bool = False
    queue: str = ""
    waiting: int | None = None
    message_location: MessageLocation = MessageLocation.UNKNOWN
    # The earlier look that found the same presence, and whether every live worker was heard after it.
    first_sighting_at: datetime | None = None
    all_reported_since: bool = False
    # The task waits in the queue for its own retry, and keeps its row running meanwhile.
    retry_waiting: bool = False
    # A run of the same kind that was dispatched at least queue_timeout later has started.
    overtaken: bool = False
    # Why something is not known, in sentences for a person.
    uncertainties: Sequence[str] = ()

    @property
    def is_surely_absent(self) -> bool:
        """True when no live worker has the task and somebody trustworthy was there to say so."""
        # guard: gone: the absence
        # guard: gone: the witness
        return self.absent and bool(self.witness) and not self.holder

    @property
    def is_confirmed(self) -> bool:
        """True when this look and an earlier one agree, and every live worker was heard in between."""
        # guard: heard between the looks
        return self.first_sighting_at is not None and self.all_reported_since


NO_EVIDENCE = Evidence()


def unattended_for(run: RunFacts, evidence: Evidence, now: datetime) -> timedelta | None:
    """Return for how long nobody is known to have worked on a run; None when nothing tells.

    Of a running run, since its last sign or the last report of its dead worker; of a waiting one, since its dispatch.
    """
    known = [run.idle_for(now) if run.phase is Phase.RUNNING else run.age(now)]
    if evidence.claimant_liveness is Liveness.DEAD and evidence.claimant_seen_at:
        known.append(max(now - evidence.claimant_seen_at, timedelta(0)))
    return min((each for each in known if each is not None), default=None)
