"""The interface between the reaper and a host: one adapter per kind of run, and the values that they exchange.

A host names its adapters in `REAPER["ADAPTERS"]`. Most subclass `ModelRunAdapter`, whose runs are rows of one Django
model; subclass `RunAdapter` where they are not.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.core import checks

from reaper.core.decisions import Decision
from reaper.core.facts import NO_EVIDENCE, Evidence, Phase, RunFacts


class RunUpdate(NamedTuple):
    """One run that the reaper wants to write: the facts it decided on, the decision, and what to store."""

    run: RunFacts
    """The run as it was when the decision was made. A row that differs by now must not be written."""
    decision: Decision
    """What to do, and why. `decision.action` is never `LEAVE`."""
    message: str
    """A sentence for people, to be stored with a run that is failed or closed."""
    new_task_id: str = ""
    """The task id of the next attempt, for a requeue. '' for every other action."""
    evidence: Evidence = NO_EVIDENCE
    """The evidence that the decision rests on. For the ledger; an adapter needs none of it."""


class Message(NamedTuple):
    """A run's Celery message, apart from the task's name and id, which the reaper adds."""

    args: Sequence[Any] = ()
    """Positional arguments of the task. They must be serializable by Celery's `task_serializer`."""
    kwargs: Mapping[str, Any] = {}
    """Keyword arguments of the task."""
    options: Mapping[str, Any] = {}
    """Publishing options of `apply_async`, such as `{"queue": "exports", "priority": 5}`."""


class OwnerNotification(NamedTuple):
    """What `RunAdapter.notify_owner()` is called with: one action on one run."""

    pk: str
    """The run's key."""
    created_at: datetime
    """When the run was failed, closed or requeued; aware."""
    action: str
    """"fail", "close" or "requeue"."""
    reason: str
    """Why, as a code such as "orphaned"."""
    message: str
    """Why, as a sentence."""
    actor: str = ""
    """The user who asked for it; '' when the reaper acted by itself."""


@dataclass(frozen=True, slots=True)
class PhaseSummary:
    """How many runs are in a phase, and which of them have been there longest."""

    count: int
    """Number of runs in the phase."""
    oldest: Sequence[RunFacts] = ()
    """The oldest ones by their own timestamps, oldest first; at most as many as were asked for."""


class RunAdapter(ABC):
    """One kind of run. Subclass `ModelRunAdapter` instead where the runs are rows of a Django model."""

    kind: str
    """The kind's name, in `KIND:ID` and in every record. At most 100 characters. Required."""
    task: str
    """The name of the Celery task that does the work. Required."""
    queue: str | None = None
    """The queue that the kind's messages go to. None: the queue that Celery's router names for the task."""
    keeps_status_while_retrying = False
    """True if a task that waits for its own `self.retry()` leaves its row running. Such a run is then left alone while
    its message waits (`retry_scheduled`); otherwise it would be orphaned."""
    is_fifo = False
    """True if all runs go through one queue and start in the order of their dispatch. A run that still waits after much
    later ones have started is then requeued (`overtaken`), which finds lost messages where the broker cannot be
    inspected."""
    supports_reopen = False
    """True if a person may undo that a run was failed or closed: it gets its former status back, under the same
    task."""
    policy: Mapping[str, Any] = {}
    """Policy values of this kind by lower-case name, such as `{"run_timeout": 7200}`: durations as timedelta or number
    of seconds. The project's settings win over them."""

    @property
    @abstractmethod
    def using(self) -> str:
        """Return the alias of the database that the runs are written to. The ledger is written to the same one."""

    @abstractmethod
    def iter_unfinished(self, phase: Phase) -> Iterator[list[RunFacts]]:
        """Yield the runs of a phase in pages, oldest first. Too many is harmless: the rules sort them out.

        For `Phase.UNKNOWN`, yield the rows whose status the adapter does not name: they are counted and left alone.
        What this raises ends the phase's sweep, which records the error.
        """

    @abstractmethod
    def get(self, pk: str) -> RunFacts | None:
        """Return one run's facts, or None when there is no such run. `pk` may be any text; this never raises for it."""

    def get_all(self, pks: Sequence[str]) -> list[RunFacts]:
        """Return the facts of the runs that exist, in any order. Override it to use one query."""
        return [run for pk in pks if (run := self.get(pk)) is not None]

    def summarize(self, phase: Phase, limit: int = 1) -> PhaseSummary:
        """Return how many runs a phase has, and the `limit` oldest of them. For display only.

        Override it for large tables: this one reads all the phase's runs.
        """
        pages = self.iter_unfinished(phase)
        first = next(pages, [])
        return PhaseSummary(len(first) + sum(map(len, pages)), first[:limit])

    @abstractmethod
    def apply(self, updates: Sequence[RunUpdate], now: datetime) -> list[RunUpdate]:
        """Write the updates whose runs are unchanged since they were read; return exactly those.

        Called inside a transaction of the caller's on `using`; `now` is that database's time. A run that has changed,
        or that another transaction has locked, is skipped and not returned. May raise: the caller then rolls back,
        and tries the runs one by one.
        """

    @abstractmethod
    def messages(self, runs: Sequence[RunFacts]) -> dict[str, Message]:
        """Return the Celery message of each run, by its `pk`. A run that no longer exists has none."""

    def task_ids_in_use(self, task_ids: Sequence[str]) -> set[str]:
        """Return which of the task ids an unfinished run carries. They are not revoked.

        Override it if two runs can share a task id.
        """
        return set()

    def latest_started_dispatch(self) -> datetime | None:
        """Return when the most recently dispatched run that has started was dispatched; None if that is not known.

        Runs that were dispatched long before and still wait were overtaken. Called only if `is_fifo`.
        """
        return None

    def find_by_task_id(self, task_id: str) -> RunFacts | None:
        """Return the facts of the run that carries the task id, or None. For display only."""
        return None

    def reopen(self, before: RunFacts) -> bool:
        """Give a run that was failed or closed its former status; return True if this was done.

        Called inside a transaction of the caller's, only if `supports_reopen`. `before` is the run as it was before
        it was ended. Do nothing if the run is no longer as the reaper left it, under the same task.
        """
        return False

    def notify_owner(self, notification: OwnerNotification) -> None:  # noqa: B027 (optional: most hosts notify nobody)
        """Tell the owner of a run that it was failed, closed or requeued. Does nothing by default.

        Called at least once: if it raises, the error is logged and it is called again, for a day.
        """

    def iter_finalizable_parents(self) -> Iterator[str]:
        """Yield the keys of unfinished parents whose children have all ended."""
        return iter(())

    def finalize(self, parent: str) -> bool:
        """Give a parent its outcome; return True if this call did it.

        Must be idempotent, and must return False for an unknown key.
        """
        return False

    def check(self) -> list[checks.CheckMessage]:
        """Return what is wrong with the adapter, for Django's system checks. No database is queried."""
        return []
