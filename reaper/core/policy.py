"""What one kind of run allows the reaper to do, and when. Pure data."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class Action(StrEnum):
    """What to do with a run. Doing nothing is a decision too."""

    LEAVE = "leave"
    """Do nothing."""
    REQUEUE = "requeue"
    """Dispatch the run again, under a new task id."""
    REPUBLISH = "republish"
    """Send the last dispatch again, under the same task id."""
    FAIL = "fail"
    """Mark the run as failed."""
    CLOSE = "close"
    """End the run because its parent has ended."""


class Mode(StrEnum):
    """How a kind is swept."""

    ACT = "act"
    """Recover stuck runs."""
    DRY_RUN = "dry_run"
    """Make the same decisions, record them, and change nothing."""
    OFF = "off"
    """Do not sweep."""


class SweepScope(StrEnum):
    """What one sweep covers. The first two equal the `Phase` of the same name."""

    QUEUED = "queued"
    """The runs that wait for a worker."""
    RUNNING = "running"
    """The runs that have started."""
    PARENTS = "parents"
    """The parents whose children have all ended."""
    MANUAL = "manual"
    """The runs that a person selected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """The limits of one kind of run. The defaults are the runbook's where it names one."""

    run_timeout: timedelta = timedelta(hours=1)
    """Maximum time from a run's start to its end (Temporal's start-to-close timeout). Longer is stuck."""
    queue_timeout: timedelta = timedelta(minutes=15)
    """Maximum time in the queue (Temporal's schedule-to-start timeout). Alert when a run waits longer than this."""
    stall_timeout: timedelta | None = None
    """Maximum time without progress on a live worker (Temporal's heartbeat timeout). Off for kinds without progress."""
    orphan_grace: timedelta = timedelta(seconds=5)
    """Grace period after a running run's start or last progress: its claim and the worker's report may cross."""
    lost_grace: timedelta = timedelta(seconds=30)
    """Grace period after a run is queued: its message may still be on its way."""
    alert_after: timedelta = timedelta(minutes=30)
    """Alert when a run has been running longer than this. Must be shorter than run_timeout to be of use."""
    on_timeout: Action = Action.FAIL
    """Action on a run over a time limit: fail, or requeue where the work may be done twice."""
    on_orphan: Action = Action.FAIL
    """Action on a run whose worker is gone: fail, or requeue where the work may be done twice."""
    max_requeues: int = 3
    """Requeues of a run that had started; the next loss fails it as poison."""
    max_redispatches: int = 5
    """Requeues of a run that had not started: its messages get lost, which is not its fault."""
    max_interruptions: int = 10
    """Requeues of a run cut off by its worker's announced shutdown: a deploy or an eviction does not make it poison."""
    backoff: Sequence[timedelta] = (timedelta(seconds=30), timedelta(minutes=2), timedelta(minutes=8))
    """Waiting time after the first, second and every further action on the same run."""
    max_actions: int = 5000
    """Maximum number of runs acted on in one sweep; the others wait for the next one."""
    mode: Mode = Mode.ACT
    """How the kind is swept, unless an operator has switched it."""
