"""What is known of a run: the facts of its row, what was done to it before, and the evidence on its task. Pure data."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

MAX_CLOCK_AHEAD = timedelta(hours=1)
"""How far ahead of `now` a timestamp may be and still be trusted; it then counts as `now`.

A run may be sent or claimed during a sweep, and clocks differ. Falling back to an earlier timestamp would mistake a run
that has just begun for an old one.
"""


def hostname(worker: str) -> str:
    """Return the name by which Celery knows a worker, of "hostname/incarnation" or of the hostname alone."""
    return worker.rpartition("/")[0] or worker


class Phase(StrEnum):
    """Where a run is in its life; the adapter maps its own statuses to these."""

    QUEUED = "queued"
    """It waits for a worker."""
    RUNNING = "running"
    """A worker has claimed it."""
    FINISHED = "finished"
    """It has ended, with whatever outcome."""
    UNKNOWN = "unknown"
    """The adapter does not map its status."""


UNFINISHED_PHASES = (Phase.RUNNING, Phase.QUEUED)
"""The phases that are swept and judged, in the order in which they are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """What the reaper did to a run before, from the ledger: actions since a person last dispatched the run."""

    requeues: int = 0
    """Requeues of the run after it had started."""
    redispatches: int = 0
    """Requeues of the run before it had started."""
    interruptions: int = 0
    """Requeues of the run after its worker's announced shutdown."""
    last_action_at: datetime | None = None
    """The time of the last requeue of any sort."""
    unpublished_task_id: str = ""
    """The task id of the reaper's own last dispatch while the broker has not confirmed it; else ''."""
    unpublished_at: datetime | None = None
    """When that dispatch was made."""

    @property
    def total_requeues(self) -> int:
        """Return how often the run was requeued, for any reason."""
        return self.requeues + self.redispatches + self.interruptions


NO_HISTORY = History()


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """One run as its row was read. Every fact may be missing; datetimes are aware."""

    kind: str
    """The adapter's name for this sort of run."""
    pk: str
    """The primary key, as text."""
    phase: Phase
    """What `status` means."""
    status: str = ""
    """The host's own word for the phase."""
    task_id: str | None = ""
    """The id of the Celery task that does the work; None or '' before it was sent."""
    worker: str = ""
    """The worker that claimed the run, "hostname/incarnation" or "hostname"; '' where the row names none."""
    created_at: datetime | None = None
    """When the row was created, by the database's clock."""
    queued_at: datetime | None = None
    """When the run was last dispatched, by the database's clock."""
    started_at: datetime | None = None
    """When a worker claimed the run, by the worker's clock."""
    progress_at: datetime | None = None
    """When the task last recorded progress, by the worker's clock."""
    parent: str | None = None
    """The primary key of the parent, as text; None without one."""
    parent_ended: bool = False
    """The parent has ended, so that nobody needs the run's result any more."""
    history: History = NO_HISTORY
    """What the reaper did to the run before."""
    exempt: bool = False
    """An operator has exempted the run from recovery."""
    skew: timedelta = timedelta(0)
    """What to add to the worker's stamps (start, progress) to have the database's time."""

    @property
    def last_activity_at(self) -> datetime | None:
        """Return the last start or progress, by the worker's clock; None without either."""
        return max((stamp for stamp in (self.started_at, self.progress_at) if stamp), default=None)

    def phase_since(self, now: datetime) -> datetime | None:
        """Return when the run's phase began, by its best timestamp that is not far in the future; None without one."""
        # The reaper's own requeue is a dispatch, also where the host does not record its time.
        stamps = [self.queued_at, self.history.last_action_at, self.created_at]
        if self.phase is Phase.RUNNING:
            stamps = [self._corrected(self.started_at), self._corrected(self.progress_at), *stamps]
        return next((min(stamp, now) for stamp in stamps if stamp and stamp <= now + MAX_CLOCK_AHEAD), None)

    def age(self, now: datetime) -> timedelta | None:
        """Return how long the run has been in its phase; None without a usable timestamp."""
        since = self.phase_since(now)
        return None if since is None else now - since

    def idle_for(self, now: datetime) -> timedelta | None:
        """Return how long ago a running run last started or made progress; its age where neither is known."""
        active_at = self._corrected(self.last_activity_at)
        if active_at is None or active_at > now + MAX_CLOCK_AHEAD:
            return self.age(now)
        return now - min(active_at, now)

    def _corrected(self, stamp: datetime | None) -> datetime | None:
        try:
            return stamp and stamp + self.skew
        except OverflowError:
            return stamp


class MessageLocation(StrEnum):
    """Where a queued run's message is."""

    WAITING = "waiting"
    """In its queue."""
    DELIVERED = "delivered"
    """At a worker that has not acknowledged it."""
    ABSENT = "absent"
    """Nowhere in the broker."""
    UNKNOWN = "unknown"
    """The broker could not be inspected, or not completely."""


class Liveness(StrEnum):
    """What is known of the worker that claimed a run."""

    ALIVE = "alive"
    """It reports."""
    DEAD = "dead"
    """It has stopped reporting for a whole silence limit, or has shut down."""
    UNKNOWN = "unknown"
    """It never reported, or its reports cannot be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What is known of the task behind a run; by default nothing. Times are the database's, with one exception."""

    holder: str = ""
    """The live worker that has the task; '' where none is known to."""
    active_since: datetime | None = None
    """Since when the holder executes the task; None while the task is only reserved (prefetched)."""
    absent: bool = False
    """It is certain that no live worker has the task."""
    witness: str = ""
    """A worker that consumes the run's queue and has reported without a gap for a whole silence limit; else ''."""
    fleet_watched_since: datetime | None = None
    """Since when all live workers have been reporting without a gap."""
    claimant_liveness: Liveness = Liveness.UNKNOWN
    """The state of the worker that the row names."""
    claimant_seen_at: datetime | None = None
    """The last heartbeat of that worker."""
    claimant_listed_at: datetime | None = None
    """When that worker listed its tasks for the heartbeat, by the worker's own clock."""
    last_holder: str = ""
    """A dead worker whose last report names the task; else ''."""
    shutdown_announced: bool = False
    """The dead worker had announced its shutdown."""
    queue: str = ""
    """The queue that the run's message goes to; '' where it is not known."""
    waiting: int | None = None
    """How many messages wait in that queue; None where it could not be counted."""
    message_location: MessageLocation = MessageLocation.UNKNOWN
    """Where the run's message is."""
    first_sighting_at: datetime | None = None
    """When an earlier scan found the message at the same location; None without one."""
    all_reported_since: bool = False
    """Every live worker has reported after that earlier scan."""
    retry_waiting: bool = False
    """The task's own Celery retry waits in the queue, and its row stays running in the meantime."""
    overtaken: bool = False
    """A run of the same kind that was dispatched at least queue_timeout later has started."""
    uncertainties: Sequence[str] = ()
    """Why something is not known, in sentences for people."""

    @property
    def is_surely_absent(self) -> bool:
        """Return whether no live worker has the task, and a witness would have noticed otherwise."""
        # guard: gone: absent from every report
        # guard: gone: a witness
        return self.absent and bool(self.witness) and not self.holder

    @property
    def is_confirmed(self) -> bool:
        """Return whether an earlier scan agrees with this one, and every live worker has reported in between."""
        # guard: reports between the observations
        return self.first_sighting_at is not None and self.all_reported_since


NO_EVIDENCE = Evidence()


def unattended_for(run: RunFacts, evidence: Evidence, now: datetime) -> timedelta | None:
    """Return for how long nobody is known to have worked on a run; None without a usable timestamp.

    A running run: since its last activity or its dead worker's last heartbeat. A queued one: since its dispatch.
    """
    known = [run.idle_for(now) if run.phase is Phase.RUNNING else run.age(now)]
    if evidence.claimant_liveness is Liveness.DEAD and evidence.claimant_seen_at:
        known.append(max(now - evidence.claimant_seen_at, timedelta(0)))
    return min((each for each in known if each is not None), default=None)
