"""What follows from a committed act: old tasks revoked, new ones published, and each confirmed in the ledger.

What the broker does not take stays unconfirmed, and the next sweep sends it again.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

from reaper import ledger
from reaper.adapters import Message, RunAdapter
from reaper.broker import Broker, BrokerDown
from reaper.evidence import Crowd
from reaper.facts import RunFacts
from reaper.models import Reaping

logger = logging.getLogger(__name__)


# A task that has lost its run notices at its next write, and may end by itself.
LAST_WORDS = timedelta(seconds=10)


def node_of(row: Reaping) -> str:
    """Return the name of the node that was executing the task."""
    holder = row.evidence.get("holder") if isinstance(row.evidence, dict) else ""
    return str(holder or "").partition("/")[0]


class Outbox:
    """One sweep's way to the broker. `tell` takes a sentence for every thing that went wrong."""

    def __init__(self, adapter: RunAdapter, broker: Broker, now: datetime, tell: Callable[[str], None]) -> None:
        self.adapter, self.broker, self.now, self.tell = adapter, broker, now, tell

    def revoke(self, rows: Sequence[Reaping]) -> None:
        """Revoke the rows' old tasks: one broadcast, and one message to each node where some are to be killed."""
        ids = [row.task_id for row in rows if row.task_id]
        # A host may have given one id to several runs: the task may be working for one that was left alone.
        shared = self.adapter.carried(ids) if ids else set()
        groups: dict[str, list[Reaping]] = {}
        for row in rows:
            if row.task_id and row.task_id not in shared:
                groups.setdefault(node_of(row) if row.terminate else "", []).append(row)
        for node, group in groups.items():
            if self._revoked([row.task_id for row in group], node):
                ledger.mark(self.adapter, "revoked_at", group, self.now)

    def kill_again(self, crowd: Crowd) -> None:
        """Kill the tasks that lost their runs a while ago and that a worker still reports as executing."""
        executing = {task_id: worker for worker in crowd.live for task_id in worker.active}
        if not executing:
            return
        rows = ledger.reaped_tasks(self.adapter, executing, self.now - ledger.REVOKE_WITHIN)
        late = {row.task_id for row in rows if self.now - row.at > LAST_WORDS} - self.adapter.carried(list(executing))
        for node in {executing[task_id].hostname for task_id in late}:
            self._revoked([task_id for task_id in late if executing[task_id].hostname == node], node)

    def publish(self, rows: Sequence[Reaping], runs: Sequence[RunFacts]) -> None:
        """Publish the requeued runs' new tasks."""
        ids = {row.run_id: row.new_task_id for row in rows if row.new_task_id}
        sent = self._send([run for run in runs if run.pk in ids], ids)
        ledger.mark(self.adapter, "published_at", [row for row in rows if row.run_id in sent], self.now)

    def republish(self, runs: Sequence[RunFacts]) -> int:
        """Publish the runs under the ids that they have; return how many the broker took.

        A message that had arrived, though that was never confirmed, is refused by the fence.
        """
        sent = self._send(runs, {run.pk: run.task_id or "" for run in runs})
        ledger.confirm(self.adapter, [run for run in runs if run.pk in sent], self.now)
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
            logger.exception("%s:%s: the adapter made no message", self.adapter.kind, runs[0].pk)
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
        except BrokerDown as down:
            self.tell(str(down))
            return False
        except ValueError as unsendable:
            self.tell(f"a message cannot be sent: {unsendable}")
            return False
        return True
