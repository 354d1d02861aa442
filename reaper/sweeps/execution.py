"""Write and deliver: `Verdict`s -> runs changed, tasks revoked and published, parents completed, `reaped` sent."""

import uuid
from collections.abc import Sequence

from reaper.adapters import RunAdapter, RunUpdate
from reaper.broker.connection import Broker
from reaper.core.explain import describe_action
from reaper.core.facts import RunFacts
from reaper.core.policy import Action
from reaper.ledger.delivery import revoke_request
from reaper.ledger.manual import record_manual_action
from reaper.models import LedgerEntry
from reaper.signals import reaped
from reaper.sweeps.judging import Verdict
from reaper.sweeps.outbox import Outbox
from reaper.sweeps.record import SweepLog
from reaper.sweeps.writer import GuardedWriter


class Executor:
    """Carries out decisions in an order that survives being cut off: first the commit, then the messages.

    Messages that the broker does not take are owed by the ledger and sent by a later sweep.
    """

    def __init__(self, adapter: RunAdapter, broker: Broker, log: SweepLog) -> None:
        self.adapter = adapter
        self.broker = broker
        self.log = log
        self.writer = GuardedWriter(log)
        self.outbox = Outbox(adapter, broker, log.now, log.add_error)

    def execute(self, verdicts: Sequence[Verdict]) -> None:
        """Write one batch, then send what follows from it."""
        updates = [self.make_update(each) for each in verdicts if not self.must_wait(each)]
        self.log.row.deferred += len(verdicts) - len(updates)
        had_revoked_all = self.log.all_revoked
        # Owed from the commit on, whatever goes wrong before the broker has taken it.
        # guard: a revoke is pending from the commit on
        self.log.all_revoked = False
        applied = self.writer.write(updates)
        self.log.row.acted += len(applied)
        requests = [revoke_request(update) for update in applied if update.run.task_id]
        self.log.all_revoked = self.outbox.revoke(requests) and had_revoked_all
        self.outbox.publish(applied)
        parents = (update.run.parent for update in applied if update.run.parent is not None)
        for parent in dict.fromkeys(parents):
            self.finalize(parent)
        for update in applied:
            reaped.send_robust(sender=type(self.adapter), run=update.run, decision=update.decision)

    def republish(self, runs: Sequence[RunFacts]) -> int:
        """Publish the runs' last dispatches again, which were never confirmed; return how many the broker took."""
        sent = self.outbox.republish(runs)
        self.log.row.acted += sent
        return sent

    def finalize(self, parent: str) -> None:
        """Complete one parent."""
        self.writer.finalize(parent)

    def revoke_only(self, update: RunUpdate) -> None:
        """Revoke a run's task because a person asked for it, and leave the run as it is.

        It is in the ledger first: a revoke that the broker does not take is sent by the next sweep.
        """
        log = self.log
        log.all_revoked = False
        record_manual_action(
            self.adapter, update, LedgerEntry.REVOKE, log.now, log.row, log.actor, update.run.task_id or ""
        )
        log.all_revoked = self.outbox.revoke([revoke_request(update)])

    def must_wait(self, verdict: Verdict) -> bool:
        """Return whether a requeue has to wait for the broker: an outage must not use up a run's budget.

        What a person asks for is written at once, and published when the broker is back.
        """
        # guard: no requeue while the broker is down
        waits = bool(self.broker.error) and not self.log.actor
        return waits and verdict.decision.action is Action.REQUEUE

    def make_update(self, verdict: Verdict) -> RunUpdate:
        """Return the update that a verdict asks for."""
        run = verdict.run
        decision = verdict.decision
        new_task_id = str(uuid.uuid4()) if decision.action is Action.REQUEUE else ""
        message = describe_action(run, decision, self.log.now, actor=self.log.actor)
        return RunUpdate(run, decision, message, new_task_id, verdict.evidence)
