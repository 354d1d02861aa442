"""What a person requests, in every mode: with the same guarded writes, ledger and outbox as a sweep.

Each function returns the `Sweep` row, which records what went wrong and what the broker has not taken yet.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from django.db import transaction

from reaper.adapters import RunAdapter, RunUpdate
from reaper.broker.connection import Broker
from reaper.controls.overrides import effective_policy
from reaper.core.decisions import Decision
from reaper.core.facts import RunFacts
from reaper.core.policy import Action, SweepScope
from reaper.core.reasons import Reason
from reaper.core.serialization import facts_from_json
from reaper.db.transactions import short_transaction
from reaper.evidence.collector import EvidenceCollector
from reaper.ledger.history import find_undoable_end
from reaper.ledger.manual import record_manual_action
from reaper.models import LedgerEntry, Sweep
from reaper.sweeps.execution import Executor
from reaper.sweeps.judging import Verdict
from reaper.sweeps.record import SweepLog
from reaper.sweeps.writer import BATCH


class ManualResult(NamedTuple):
    """What became of a person's request."""

    done: bool
    """Whether it was done; otherwise the run had changed, or could not be written."""
    sweep: Sweep
    """The row that records it."""


class ManualSweep(NamedTuple):
    """A person's request while it is carried out."""

    log: SweepLog
    executor: Executor
    collector: EvidenceCollector


@contextmanager
def manual_sweep(adapter: RunAdapter, actor: str) -> Iterator[ManualSweep]:
    """Begin a sweep of what a person requests; an exception inside the block is recorded and not raised."""
    log = SweepLog(adapter, SweepScope.MANUAL, actor)
    with Broker() as broker:
        collector = EvidenceCollector(adapter, broker, effective_policy(adapter), log.now)
        request = ManualSweep(log, Executor(adapter, broker, log), collector)
        with log.errors_recorded():
            yield request


def act_on_run(adapter: RunAdapter, run: RunFacts, action: Action, actor: str) -> ManualResult:
    """Fail or requeue one run, if it is unchanged since it was read."""
    row = act_on_runs(adapter, [run], action, actor)
    return ManualResult(bool(row.acted), row)


def act_on_runs(adapter: RunAdapter, runs: Sequence[RunFacts], action: Action, actor: str) -> Sweep:
    """Fail or requeue the runs that are unchanged since they were read; return the row, which counts the others."""
    with manual_sweep(adapter, actor) as request:
        for start in range(0, len(runs), BATCH):
            verdicts = decide_manually(request, runs[start : start + BATCH], action)
            request.executor.execute(verdicts)
    return request.log.close()


def revoke(adapter: RunAdapter, run: RunFacts, actor: str) -> Sweep:
    """Revoke a run's task, and kill it where it is executed; the run is left as it is. Return the row."""
    with manual_sweep(adapter, actor) as request:
        request.log.open()
        (verdict,) = decide_manually(request, [run], Action.LEAVE)
        message = f"Task revoked by {actor}."
        request.executor.revoke_only(RunUpdate(verdict.run, verdict.decision, message, evidence=verdict.evidence))
    return request.log.close()


def reopen(adapter: RunAdapter, run: RunFacts, actor: str) -> ManualResult:
    """Undo that a run was ended: its task may write to it again.

    If no worker has it, the next sweep will find that again.
    """
    done = False
    with manual_sweep(adapter, actor) as request:
        log = request.log
        log.open()
        # guard: reopen: the parent has not ended
        end = find_undoable_end(adapter, run.pk) if adapter.supports_reopen and not run.parent_ended else None
        if end:
            before = facts_from_json(end.facts)
            update = RunUpdate(before, Decision(Action.LEAVE, Reason.MANUAL), f"Reopened by {actor}.")
            with short_transaction(adapter.using):
                record_manual_action(adapter, update, LedgerEntry.REOPEN, log.now, log.row, actor)
                done = adapter.reopen(before)
                transaction.set_rollback(not done, using=adapter.using)
    return ManualResult(done, log.close())


def finalize(adapter: RunAdapter, parent: str, actor: str) -> ManualResult:
    """Complete one parent, if all its children have ended and it was not completed before."""
    with manual_sweep(adapter, actor) as request:
        request.executor.finalize(parent)
    row = request.log.close()
    return ManualResult(bool(row.finalized), row)


def decide_manually(request: ManualSweep, runs: Sequence[RunFacts], action: Action) -> list[Verdict]:
    """Return the verdicts for a person's request, and count them; kill a task that a worker reports as running."""
    verdicts = []
    for finding in request.collector.gather(runs):
        is_executing = finding.evidence.active_since is not None
        decision = Decision(action, Reason.MANUAL, terminate=is_executing)
        verdicts.append(Verdict(finding.run, decision, finding.evidence))
    request.log.row.scanned += len(verdicts)
    request.log.counts[str(Reason.MANUAL)] += len(verdicts)
    return verdicts
