"""The ledger as an outbox: the revokes that are owed, and the dispatches that the broker has taken."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db.models import QuerySet

from reaper.adapters import RunAdapter, RunUpdate
from reaper.core.policy import Action
from reaper.db.expressions import InValues
from reaper.models import LedgerEntry, Sweep

REVOKE_WITHIN = timedelta(hours=1)
"""Age beyond which an owed revoke is dropped: by then its task has started, ended, or been refused by the fence."""


class RevokeRequest(NamedTuple):
    """A task to revoke."""

    task_id: str
    """The task's id."""
    terminate: bool = False
    """Whether the worker that executes it should also kill it."""
    holder: Any = ""
    """The name of that worker, NODE/INCARNATION; '' or None when none reports the task."""
    requested_by_person: bool = False
    """A person wants it revoked although its run still carries it."""

    @property
    def node(self) -> str:
        """Return the node on which to kill it; '' if it must only be prevented from starting."""
        # guard: a kill only for a running task
        return str(self.holder or "").partition("/")[0] if self.terminate else ""


def revoke_request(update: RunUpdate) -> RevokeRequest:
    """Return the request for the task that lost its run by an update, or that a person wants revoked."""
    return RevokeRequest(
        task_id=update.run.task_id or "",
        terminate=update.decision.terminate,
        holder=update.evidence.holder,
        requested_by_person=update.decision.action is Action.LEAVE,
    )


def sweeps_owing_revokes(adapter: RunAdapter, now: datetime) -> QuerySet[Sweep]:
    """Return the sweeps that were cut off, or whose revokes the broker did not all take; oldest first."""
    owing = Sweep.objects.using(adapter.using).filter(kind=adapter.kind, revoked_at=None, idle=False)
    return owing.filter(started_at__gt=now - REVOKE_WITHIN).order_by("id")


def owed_revokes(adapter: RunAdapter, sweep: Sweep) -> list[RevokeRequest]:
    """Return the requests for all tasks that lost their runs by a sweep, or that a person wanted revoked."""
    entries = LedgerEntry.objects.using(adapter.using).applied().filter(sweep=sweep).exclude(task_id="")
    return [
        RevokeRequest(task_id, terminate, holder, requested_by_person=action == LedgerEntry.REVOKE)
        for task_id, terminate, holder, action in entries.order_by("id").values_list(
            "task_id", "terminate", "evidence__holder", "action"
        )
    ]


def entries_of_tasks(adapter: RunAdapter, task_ids: Iterable[str], since: datetime) -> list[LedgerEntry]:
    """Return the entries after `since` by which these tasks lost their runs, oldest first."""
    entries = LedgerEntry.objects.using(adapter.using).applied().filter(kind=adapter.kind, created_at__gt=since)
    # Repeat `<> ''` so that PostgreSQL can use the partial index.
    return list(entries.filter(task_id__in=list(task_ids)).exclude(task_id="").order_by("id"))


def confirm_dispatches(adapter: RunAdapter, task_ids: Mapping[str, str], now: datetime) -> None:
    """Confirm that the broker has taken these dispatches, perhaps of an earlier sweep. `task_ids`: run -> task id."""
    unconfirmed = LedgerEntry.objects.using(adapter.using).applied().filter(kind=adapter.kind, published_at=None)
    taken = unconfirmed.filter(InValues("run_id", task_ids), InValues("new_task_id", task_ids.values()))
    taken.update(published_at=now)
