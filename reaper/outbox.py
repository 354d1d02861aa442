"""What follows from a committed act: old tasks revoked, new ones published, and each confirmed in the ledger.

What the broker does not take stays unconfirmed, and the next sweep sends it again.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial

from reaper import ledger
from reaper.adapters import Message, RunAdapter
from reaper.broker import Broker, BrokerDown
from reaper.decisions import RunFacts
from reaper.models import Reaping

logger = logging.getLogger(__name__)


class Outbox:
    """One sweep's way to the broker. `tell` takes a sentence for every thing that went wrong."""

    def __init__(self, adapter: RunAdapter, broker: Broker, now: datetime, tell: Callable[[str], None]) -> None:
        self.adapter, self.broker, self.now, self.tell = adapter, broker, now, tell

    def revoke(self, rows: Sequence[Reaping]) -> None:
        """Revoke the rows' old tasks: one broadcast, and one more for those that are to be killed."""
        ids = [row.task_id for row in rows if row.task_id]
        # A host may have given one id to several runs: the task may be working for one that was left alone.
        shared = self.adapter.carried(ids) if ids else set()
        for terminate in (False, True):
            group = [row for row in rows if row.terminate is terminate and row.task_id and row.task_id not in shared]
            if group and self._sent(partial(self.broker.revoke, [row.task_id for row in group], terminate=terminate)):
                ledger.mark(self.adapter, "revoked_at", group, self.now)

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
