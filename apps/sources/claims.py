"""A task's side of a run: claim it, report progress, and complete, fail or release it.

The fence: each of these is one conditional UPDATE. A task may touch its row only while the row carries that task's id
and the status that allows it. Both are needed: the status alone lets an old attempt finish its successor's run, the id
alone lets a late task resurrect a run that has ended. 0 changed rows are a normal answer: the task has lost its run and
stops.
"""

import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.db import transaction
from django.dispatch import Signal
from django.utils import timezone

from apps.sources import dispatch, parents
from apps.sources.models import CrawlJob, CrawlJobSourceResult
from apps.sources.runs import PENDING, RUNNING, TOTALS, Run, columns
from reaper import api

logger = logging.getLogger(__name__)

# For the journal of demos and live tests (`journal.py`). Each has the argument `claim` (a `Claim`).
# A task has taken its run.
run_claimed = Signal()
# A task is about to complete, fail or release its run. Argument: write ("complete", "fail", "release").
run_ending = Signal()
# A task's write was refused. Argument: write (also "claim" and "progress").
write_refused = Signal()


class ClaimLost(Exception):
    """The run is no longer this task's: its write changed nothing, and the task must stop."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A task's claim on its run. Every method is one conditional UPDATE, and raises `ClaimLost` if the run is lost."""

    model: Run
    """The table of the run."""
    pk: uuid.UUID
    """The run's key."""
    task_id: str
    """The task that claimed the run."""
    worker: str
    """The worker that runs the task, as `reaper.api.worker_name()` names it."""

    def progress(self, totals: Mapping[str, int]) -> None:
        """Store how far the crawl has got, and a heartbeat."""
        self._write("progress", {"heartbeat_at": timezone.now(), **columns(self.model, totals)})

    def complete(self, totals: Mapping[str, int]) -> None:
        """End the run as completed."""
        self._end("complete", status="completed", error_message="", error_code="", **columns(self.model, totals))

    def fail(self, message: str, code: str) -> None:
        """End the run as failed; `message` is a sentence, `code` a word for machines (at most 50 characters)."""
        self._end("fail", status="failed", error_message=message, error_code=code[:50])

    def release(self, retries: int) -> None:
        """Give the run back, and dispatch it again under a new id as retry number `retries`.

        Celery's own retry would keep the id, and with it an old attempt could end the new one.
        """
        self._announce_end("release")
        task_id = dispatch.new_task_id()
        republish = partial(dispatch.publish, self.model, self.pk, task_id, retries=retries)
        values = {"status": PENDING, "task_id": task_id, "queued_at": timezone.now(), "started_at": None, "worker": ""}
        self._write("release", values, on_commit=republish)

    def refuse(self, write: str) -> None:
        """Record that the run is no longer this task's, and raise `ClaimLost`."""
        logger.warning("%s of %s %s refused: it is not task %s's", write, self.model.__name__, self.pk, self.task_id)
        api.record_refused_write(self.model, self.pk, task_id=self.task_id, worker=self.worker, write=write)
        write_refused.send(sender=self.model, claim=self, write=write)
        raise ClaimLost(f"{write} of {self.model.__name__} {self.pk} by task {self.task_id}")

    def _end(self, write: str, **values: Any) -> None:
        self._announce_end(write)
        # Only after the commit: two children ending together must each see the other's end, and nobody may wait for
        # the parent's lock while holding a child's.
        finalize = partial(parents.finalize_parent_of, self.pk) if self.model is CrawlJobSourceResult else None
        self._write(write, {"completed_at": timezone.now(), **values}, on_commit=finalize)

    def _announce_end(self, write: str) -> None:
        run_ending.send(sender=self.model, claim=self, write=write)

    def _write(self, write: str, values: Mapping[str, Any], *, on_commit: Callable[[], Any] | None = None) -> None:
        """Write if the run is still this task's; otherwise refuse."""
        # guard: writes: the status
        # guard: writes: the task
        mine = self.model._default_manager.filter(pk=self.pk, status=RUNNING, task_id=self.task_id)
        with transaction.atomic():
            written = mine.update(**values)
            if written and on_commit:
                transaction.on_commit(on_commit)
        # Outside of the transaction, which the exception would roll back with the record of the refusal in it.
        if not written:
            self.refuse(write)


def claim(model: Run, pk: Any, task_id: str, worker: str) -> Claim:
    """Take a run for the task that its row names. Raises `ClaimLost` for any other task, and for a second delivery."""
    taken = Claim(model=model, pk=pk, task_id=task_id, worker=worker)
    # guard: claim: the status
    # guard: claim: the task
    waiting = model._default_manager.filter(pk=pk, status=PENDING, task_id=task_id)
    reset = dict.fromkeys(TOTALS[model].values(), 0)
    now = timezone.now()
    if not waiting.update(status=RUNNING, started_at=now, worker=worker, heartbeat_at=None, completed_at=None, **reset):
        taken.refuse("claim")
    if model is CrawlJobSourceResult:
        pending_parents = CrawlJob.objects.filter(source_results=pk, status=PENDING).values("pk")
        CrawlJob.objects.filter(pk__in=pending_parents, status=PENDING).update(status=RUNNING, started_at=now)
    run_claimed.send(sender=model, claim=taken)
    return taken
