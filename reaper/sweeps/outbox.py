"""Deliver: committed `RunUpdate`s -> old tasks revoked, new ones published, and each confirmed in the ledger.

What the broker does not take stays unconfirmed, and the next sweep sends it again.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

from reaper.adapters import Message, RunAdapter, RunUpdate
from reaper.broker.connection import Broker
from reaper.core.facts import RunFacts
from reaper.core.formatting import one_line
from reaper.core.sweep_errors import ErrorCode
from reaper.evidence.fleet import Fleet
from reaper.exceptions import BrokerUnavailable
from reaper.ledger.delivery import (
    REVOKE_WITHIN,
    RevokeRequest,
    confirm_dispatches,
    entries_of_tasks,
    owed_revokes,
    sweeps_owing_revokes,
)
from reaper.models import Sweep

logger = logging.getLogger(__name__)

SELF_EXIT_GRACE = timedelta(seconds=10)
"""A task that has lost its run notices at its next write, and may end by itself within this time."""


class Outbox:
    """One sweep's way to the broker."""

    def __init__(
        self, adapter: RunAdapter, broker: Broker, now: datetime, on_error: Callable[[ErrorCode, str], None]
    ) -> None:
        """`on_error` receives a code and a sentence for everything that goes wrong; nothing is raised."""
        self.adapter = adapter
        self.broker = broker
        self.now = now
        self.on_error = on_error

    def revoke(self, requests: Sequence[RevokeRequest]) -> bool:
        """Revoke the tasks: one broadcast, and one message to each node where some are to be killed.

        Return whether the broker has taken all of it.
        """
        ids = [each.task_id for each in requests]
        # A host may have given one id to several runs: the task may be working for one that was left alone.
        shared = self.adapter.task_ids_in_use(ids) if ids else set()
        by_node: dict[str, list[str]] = {}
        for each in requests:
            # guard: a shared task is not revoked
            if each.requested_by_person or each.task_id not in shared:
                by_node.setdefault(each.node, []).append(each.task_id)
        taken = [self._try_revoke(task_ids, node) for node, task_ids in by_node.items()]
        return all(taken)

    def send_owed_revokes(self) -> None:
        """Send the revokes that earlier sweeps could not send, or were cut off before."""
        for sweep in sweeps_owing_revokes(self.adapter, self.now):
            if not self.revoke(owed_revokes(self.adapter, sweep)):
                return
            Sweep.objects.using(self.adapter.using).filter(pk=sweep.pk).update(revoked_at=self.now)

    def terminate_leftovers(self, fleet: Fleet, is_stopped: Callable[[], bool]) -> None:
        """Kill the tasks that lost their runs a while ago and that a worker still reports as executing.

        `is_stopped` tells whether the kind was switched off; it is called once, before the first kill.
        """
        executing = {task_id: worker for worker in fleet.live for task_id in worker.active}
        if not executing:
            return
        entries = entries_of_tasks(self.adapter, executing, self.now - REVOKE_WITHIN)
        overdue = {entry.task_id for entry in entries if self.now - entry.created_at > SELF_EXIT_GRACE}
        leftovers = overdue - self.adapter.task_ids_in_use(list(executing))
        if not leftovers or is_stopped():
            return
        for node in {executing[task_id].hostname for task_id in leftovers}:
            self._try_revoke([task_id for task_id in leftovers if executing[task_id].hostname == node], node)

    def publish(self, updates: Sequence[RunUpdate]) -> None:
        """Publish the new tasks of the runs that were requeued."""
        ids = {update.run.pk: update.new_task_id for update in updates if update.new_task_id}
        self._send([update.run for update in updates if update.run.pk in ids], ids)

    def republish(self, runs: Sequence[RunFacts]) -> int:
        """Publish the runs under the task ids that they have; return how many the broker took.

        Where the first message did arrive and was only never confirmed, the run's fence refuses the second.
        """
        return self._send(runs, {run.pk: run.task_id or "" for run in runs})

    def _send(self, runs: Sequence[RunFacts], ids: Mapping[str, str]) -> int:
        """Publish the runs under these task ids, confirm what the broker took, and return how many that is."""
        messages = self._messages(runs)
        sent: dict[str, str] = {}
        for run in runs:
            message = messages.get(run.pk)
            if not isinstance(message, Message):
                sentence = f"{run.pk} cannot be published: the adapter has no message for it"
                self.on_error(ErrorCode.ADAPTER, sentence)
            elif self._try(partial(self.broker.publish, self.adapter.task, message, ids[run.pk])):
                sent[run.pk] = ids[run.pk]
        if sent:
            confirm_dispatches(self.adapter, sent, self.now)
        return len(sent)

    def _messages(self, runs: Sequence[RunFacts]) -> Mapping[str, Message]:
        """Return the adapter's messages, by run. When it fails for all, each run is asked for alone."""
        try:
            return self.adapter.messages(runs) if runs else {}
        except Exception as error:
            if len(runs) > 1:
                return {key: each for run in runs for key, each in self._messages([run]).items()}
            logger.exception("%s:%s: the adapter made no message", self.adapter.kind, one_line(runs[0].pk))
            sentence = f"the adapter made no message for {runs[0].pk}: {type(error).__name__}: {error}"
            self.on_error(ErrorCode.ADAPTER, sentence)
            return {}

    def _try_revoke(self, task_ids: Sequence[str], node: str) -> bool:
        """Revoke; where a node is named, kill there, and only there. Return whether the broker took it."""
        destination = [node] if node else []
        return self._try(partial(self.broker.revoke, task_ids, terminate=bool(node), destination=destination))

    def _try(self, send: Callable[[], None]) -> bool:
        """Send one message; return whether the broker took it."""
        try:
            send()
        except BrokerUnavailable as error:
            self.on_error(ErrorCode.BROKER_UNAVAILABLE, str(error))
            return False
        except ValueError as error:
            self.on_error(ErrorCode.ADAPTER, f"a message cannot be sent: {error}")
            return False
        return True
