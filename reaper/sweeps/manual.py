"""What a person asks for: the same guarded writes, the same ledger and the same outbox as a sweep's, in every mode.

Each returns the `Sweep` row that tells what was done, and what the broker has not taken yet.
"""

from collections.abc import Sequence

from django.db import transaction

from reaper.adapters import RunAdapter, RunUpdate
from reaper.broker.connection import Broker
from reaper.core.decisions import Decision
from reaper.core.facts import RunFacts
from reaper.core.policy import Action, SweepScope
from reaper.core.reasons import Reason
from reaper.core.serialization import facts_from_json
from reaper.ledger import records as ledger
from reaper.models import LedgerEntry, Sweep
from reaper.sweeps.sweep import BATCH, SweepRun, Verdict, short_transaction


def act_on_run(adapter: RunAdapter, run: RunFacts, action: Action, actor: str) -> tuple[bool, Sweep]:
    """Fail or requeue one run because a person asked for it; return whether that was done, and the `Sweep` row."""
    row = act_on_runs(adapter, [run], action, actor)
    return bool(row.acted), row


def act_on_runs(adapter: RunAdapter, runs: Sequence[RunFacts], action: Action, actor: str) -> Sweep:
    """Fail or requeue runs because a person asked for it, through the same guarded write and ledger.

    Returns the `Sweep` row, which says how many were still as they were seen, and tells about the broker.
    """
    with Broker() as broker:
        hand = SweepRun(adapter, SweepScope.MANUAL, broker, actor=actor)
        with hand.notified():
            for start in range(0, len(runs), BATCH):
                found = hand.sources.gather(runs[start : start + BATCH])
                verdicts = [
                    Verdict(run, Decision(action, Reason.MANUAL, terminate=evidence.active_since is not None), evidence)
                    for run, evidence, _ in found
                ]
                hand.note(verdicts)
                hand.act(verdicts)
        return hand.close()


def revoke(adapter: RunAdapter, run: RunFacts, actor: str) -> Sweep:
    """Revoke a run's task, and kill it where it is executed, because a person asked for it. The run is left as it is.

    It is in the ledger first: a revoke that the broker does not take is sent by the next sweep.
    """
    with Broker() as broker:
        hand = SweepRun(adapter, SweepScope.MANUAL, broker, actor=actor)
        with hand.notified():
            hand.open()
            ((run, evidence, _),) = hand.sources.gather([run])
            decision = Decision(Action.LEAVE, Reason.MANUAL, terminate=evidence.active_since is not None)
            hand.note([Verdict(run, decision, evidence)])
            change = RunUpdate(run, decision, f"Task revoked by {actor}.", evidence=evidence)
            # Owed from here on, whatever goes wrong before the broker has taken it.
            hand.revoked = False
            ledger.record_manual_action(
                adapter, change, LedgerEntry.REVOKE, hand.now, hand.row, actor, run.task_id or ""
            )
            hand.revoked = hand.outbox.revoke([ledger.revoke_request(change)])
        return hand.close()


def reopen(adapter: RunAdapter, run: RunFacts, actor: str) -> tuple[bool, Sweep]:
    """Undo that a run was ended, because a person says that it was fine; return whether it was done, and the row.

    Its task may write to it again. Where nobody works on it, the next sweep finds that out once more.
    """
    with Broker() as broker:
        hand, done = SweepRun(adapter, SweepScope.MANUAL, broker, actor=actor), False
        with hand.notified():
            hand.open()
            ended = (
                # guard: reopen: the parent
                ledger.find_undoable_end(adapter, run.pk) if adapter.supports_reopen and not run.parent_ended else None
            )
            if ended:
                was = facts_from_json(ended.facts)
                with short_transaction(adapter.using):
                    change = RunUpdate(was, Decision(Action.LEAVE, Reason.MANUAL), f"Reopened by {actor}.")
                    ledger.record_manual_action(adapter, change, LedgerEntry.REOPEN, hand.now, hand.row, actor)
                    done = adapter.reopen(was)
                    transaction.set_rollback(not done, using=adapter.using)
        return done, hand.close()


def finalize(adapter: RunAdapter, parent: str, actor: str) -> tuple[bool, Sweep]:
    """Finalize one parent because a person asked for it; return whether it was done, and the `Sweep` row."""
    with Broker() as broker:
        hand = SweepRun(adapter, SweepScope.MANUAL, broker, actor=actor)
        with hand.notified():
            hand.finalize(parent)
        row = hand.close()
        return bool(row.finalized), row
