"""What follows from a committed act: old tasks revoked, new ones published, and each confirmed in the ledger.

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
from reaper.evidence.fleet import Fleet
from reaper.exceptions import BrokerUnavailable
from reaper.ledger import records as ledger
from reaper.ledger.records import RevokeRequest
from reaper.models import Sweep

logger = logging.getLogger(__name__)


# A task that has lost its run notices at its next write, and may end by itself.
SELF_EXIT_GRACE = timedelta(seconds=10)


class Outbox:
    """One sweep's way to the broker. `tell` takes a sentence for every thing that went wrong."""

    def __init__(self, adapter: RunAdapter, broker: Broker, now: datetime, tell: Callable[[str], None]) -> None:
        self.adapter, self.broker, self.now, self.tell = adapter, broker, now, tell

    def revoke(self, doomed: Sequence[RevokeRequest]) -> bool:
        """Revoke the tasks: one broadcast, and one message to each node where some are to be killed.

        Returns whether the broker has taken all of it.
        """
        ids = [each.task_id for each in doomed]
        # A host may have given one id to several runs: the task may be working for one that was left alone.
        shared = self.adapter.task_ids_in_use(ids) if ids else set()
        groups: dict[str, list[str]] = {}
        for each in doomed:
            # guard: a shared task is not revoked
            if each.wanted or each.task_id not in shared:
                groups.setdefault(each.node, []).append(each.task_id)
        taken = [self._revoked(group, node) for node, group in groups.items()]
        return all(taken)

    def send_owed_revokes(self) -> None:
        """Revoke what earlier sweeps could not, or did not come to."""
        for sweep in ledger.sweeps_owing_revokes(self.adapter, self.now):
            if not self.revoke(ledger.owed_revokes(self.adapter, sweep)):
                return
            Sweep.objects.using(self.adapter.using).filter(pk=sweep.pk).update(revoked_at=self.now)

    def terminate_leftovers(self, fleet: Fleet, stopped: Callable[[], bool]) -> None:
        """Kill the tasks that lost their runs a while ago and that a worker still reports as executing.

        Before the first kill, `stopped` is asked whether the kind is still to be acted on.
        """
        executing = {task_id: worker for worker in fleet.live for task_id in worker.active}
        if not executing:
            return
        rows = ledger.entries_of_tasks(self.adapter, executing, self.now - ledger.REVOKE_WITHIN)
        late = {
            row.task_id for row in rows if self.now - row.created_at > SELF_EXIT_GRACE
        } - self.adapter.task_ids_in_use(list(executing))
        if not late or stopped():
            return
        for node in {executing[task_id].hostname for task_id in late}:
            self._revoked([task_id for task_id in late if executing[task_id].hostname == node], node)

    def publish(self, changes: Sequence[RunUpdate]) -> None:
        """Publish the requeued runs' new tasks."""
        ids = {change.run.pk: change.new_task_id for change in changes if change.new_task_id}
        sent = self._send([change.run for change in changes if change.run.pk in ids], ids)
        ledger.confirm(self.adapter, {pk: ids[pk] for pk in sent}, self.now)

    def republish(self, runs: Sequence[RunFacts]) -> int:
        """Publish the runs under the ids that they have; return how many the broker took.

        A message that had arrived, though that was never confirmed, is refused by the fence.
        """
        ids = {run.pk: run.task_id or "" for run in runs}
        sent = self._send(runs, ids)
        ledger.confirm(self.adapter, {pk: ids[pk] for pk in sent}, self.now)
        return len(sent)

    def _send(self, runs: Sequence[RunFacts], ids: Mapping[str, str]) -> set[str]:
        """Publish the runs under these ids; return the keys of those that the broker took."""
        messages = self._messages(runs)
        sent = set()
        for run in runs:
            message = messages.get(run.pk)
            if not isinstance(message, Message):
                self.tell(f"{run.pk} cannot be published: the adapter has no message for it")
            elif self._sent(partial(self.broker.publish, self.adapter.task, message, ids[run.pk])):
                sent.add(run.pk)
        return sent

    def _messages(self, runs: Sequence[RunFacts]) -> Mapping[str, Message]:
        """Return the adapter's messages. When it fails for all, each run is asked for by itself."""
        try:
            return self.adapter.messages(runs) if runs else {}
        except Exception as error:
            if len(runs) > 1:
                return {key: each for run in runs for key, each in self._messages([run]).items()}
            logger.exception("%s:%s: the adapter made no message", self.adapter.kind, one_line(runs[0].pk))
            self.tell(f"the adapter made no message for {runs[0].pk}: {type(error).__name__}: {error}")
            return {}

    def _revoked(self, task_ids: Sequence[str], node: str) -> bool:
        """Revoke; where a node is named, kill there, and only there."""
        destination = [node] if node else []
        return self._sent(partial(self.broker.revoke, task_ids, terminate=bool(node), destination=destination))

    def _sent(self, ask: Callable[[], None]) -> bool:
        """Ask the broker; True when it took the message."""
        try:
            ask()
        except BrokerUnavailable as down:
            self.tell(str(down))
            return False
        except ValueError as unsendable:
            self.tell(f"a message cannot be sent: {unsendable}")
            return False
        return True
