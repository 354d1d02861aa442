"""The shell: one sweep reads the runs, gathers the evidence on them, lets `decide()` judge, and acts.

Every act is one transaction per batch: a conditional UPDATE of the rows that are still as they were seen, and their
ledger rows, together. Only after its commit are the old tasks revoked, the new ones published and the parents
finalized; what the broker does not take is in the ledger and is sent by the next sweep. So a sweep may be cut off
anywhere, run twice, or overlap with another.
"""

import logging
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from django.db import OperationalError, connections, transaction

from reaper.adapters import RunAdapter, RunUpdate
from reaper.broker.connection import Broker
from reaper.conf import clock
from reaper.controls import modes as switches
from reaper.controls import overrides as policies
from reaper.controls.exemptions import exempt_ids
from reaper.core import brake
from reaper.core.decisions import Decision, decide, leave
from reaper.core.explain import describe_action
from reaper.core.facts import NO_EVIDENCE, Evidence, Phase, RunFacts
from reaper.core.formatting import one_line
from reaper.core.policy import Action, Mode, Policy, SweepScope
from reaper.core.reasons import Reason
from reaper.evidence.collector import EvidenceCollector
from reaper.evidence.finding import Finding
from reaper.evidence.sightings import store_sightings
from reaper.ledger import records as ledger
from reaper.models import LedgerEntry, Observation, Sweep
from reaper.signals import reaped, swept
from reaper.sweeps.outbox import Outbox

logger = logging.getLogger(__name__)

# Rows per transaction: a worker's write to one of them waits for some 20 ms (docs/BENCHMARKS.md). More gains little.
BATCH = 500
# PostgreSQL waits for a lock, and for a statement of a batch, no longer than this.
LOCK_TIMEOUT, STATEMENT_TIMEOUT = "250ms", "5s"
# After so many refusals of the database (timeouts, lost connections) the rest waits for the next sweep: at 5 s each, a
# database that is too slow for everything holds a sweep for half a minute and no longer.
MAX_DB_ERRORS = 5
# What a Sweep row's phase is besides those of runs.
# What would be done with a parent.
FINALIZED = {"phase": Phase.RUNNING, "action": LedgerEntry.FINALIZE, "reason": Reason.CHILDREN_ENDED}


class Verdict(NamedTuple):
    """One run, what was decided on it, and on which evidence."""

    run: RunFacts
    decision: Decision
    evidence: Evidence = NO_EVIDENCE


def verdict(adapter: RunAdapter, pk: str, now: datetime) -> Verdict | None:
    """Return what would be done with one run now, or None when there is no such run."""
    run = adapter.get(pk)
    if run is None:
        return None
    with Broker() as broker:
        return judge_all([run], EvidenceCollector(adapter, broker, policies.effective_policy(adapter), now))[0]


def plan(adapter: RunAdapter, phase: Phase, sources: EvidenceCollector) -> Iterator[list[Verdict]]:
    """Yield what would be done with every unfinished run of a phase, in pages. Reads only."""
    for page in adapter.iter_unfinished(phase):
        yield judge_all(page, sources)


def judge_all(page: Sequence[RunFacts], sources: EvidenceCollector) -> list[Verdict]:
    """Return the verdicts on a page of runs."""
    runs = ledger.with_history(sources.adapter, page)
    if exempted := exempt_ids(sources.adapter, [run.pk for run in runs], sources.now):
        runs = [replace(run, exempt=run.pk in exempted) for run in runs]
    return [judge(each, sources.policy, sources.now) for each in sources.gather(runs)]


def judge(found: Finding, policy: Policy, now: datetime) -> Verdict:
    """Return the verdict on one run. One that the rules cannot judge is left alone, and does not stop the others."""
    run, evidence, decision = found
    try:
        return Verdict(run, decision or decide(run, evidence, policy, now), evidence)
    except Exception:
        logger.exception("%s:%s could not be judged", run.kind, one_line(run.pk))
        return Verdict(run, leave(Reason.JUDGING_FAILED), evidence)


def sweep(adapter: RunAdapter, phase: Phase) -> Sweep:
    """Sweep one kind and phase; return its `Sweep` row. Never raises for a run or the broker: it tells in the row."""
    with Broker() as broker:
        run = SweepRun(adapter, phase, broker)
        # guard: off
        if run.mode is not Mode.OFF:
            with run.notified():
                run.work(phase)
            # Of what could be read, also when not all could.
            with run.notified():
                run.act_on_tallied()
            with run.notified():
                run.terminate_leftovers()
        return run.close()


def finalize_parents(adapter: RunAdapter) -> Sweep:
    """Finalize the parents whose children have all ended; return the `Sweep` row."""
    with Broker() as broker:
        run = SweepRun(adapter, SweepScope.PARENTS, broker)
        with run.notified():
            for parent in adapter.iter_finalizable_parents() if run.mode is not Mode.OFF else ():
                run.row.scanned += 1
                if run.mode is Mode.DRY_RUN:
                    record_dry_run(
                        adapter, [Observation(run_id=parent, **FINALIZED)], run.now, f"{adapter.kind}.parent"
                    )
                elif not run.stopped():
                    run.finalize(parent)
        return run.close()


def silence_hold(counts: Mapping[str, int], sources: EvidenceCollector) -> str:
    """Return the sentence that nothing is decided by a task's absence, as the workers fell silent together; or ''."""
    if not counts.get(Reason.INCONCLUSIVE) or not (silence := sources.mass_silence):
        return ""
    return f"{brake.HELD}{silence}: nothing is decided by the absence of a task until one consumes the queue again"


def volume_hold(adapter: RunAdapter, phase: str, reaping: int, unfinished: int, now: datetime) -> str:
    """Return the sentence that only a few are acted on, as it would be most of the runs; or ''."""
    if not brake.exceeds_limit(reaping, unfinished) or switches.state_of(adapter, now).released:
        return ""
    many = f"{reaping} of {unfinished} {phase} runs would be acted on at once"
    return f"{brake.HELD}{many}, so only {brake.HELD_LIMIT} are; `manage.py reaper release {adapter.kind}` lets all"


class SweepRun:
    """One sweep under way: the row that is being filled, and the acts that fill it."""

    def __init__(self, adapter: RunAdapter, phase: str, broker: Broker, actor: str = "") -> None:
        self.adapter, self.broker, self.actor = adapter, broker, actor
        self.policy: Policy = policies.effective_policy(adapter)
        # Taken before anything is read, so that every age errs towards younger.
        self.now = clock.now(adapter.using)
        self.row = Sweep(kind=adapter.kind, phase=phase, started_at=self.now)
        self.sources = EvidenceCollector(adapter, broker, self.policy, self.now)
        self.outbox = Outbox(adapter, broker, self.now, self.tell)
        self.mode = Mode.ACT if actor else switches.state_of(adapter, self.now).mode
        self.row.mode = str(self.mode)
        self.counts: Counter[str] = Counter()
        self.errors: list[str] = []
        self.acting: list[Verdict] = []
        # How many runs it may act on, unless the brake says less.
        self.limit = self.policy.max_actions
        # Whether the broker has taken every revoke so far.
        self.revoked = True
        self.refusals = 0

    @contextmanager
    def notified(self) -> Iterator[None]:
        """Turn whatever goes wrong inside into a sentence of the row: the sweep ends, the next one comes anyway."""
        try:
            yield
        except Exception as error:
            logger.exception("%s: the sweep of %s runs was cut short", self.adapter.kind, self.row.phase)
            self.tell(f"cut short: {type(error).__name__}: {error}")

    def tell(self, sentence: str) -> None:
        """Add one sentence to the row, once."""
        sentence = one_line(sentence)
        if sentence not in self.errors:
            self.errors.append(sentence)

    def work(self, phase: Phase) -> None:
        """Judge the unfinished runs of a phase; act whenever there are as many to act on as the sweep still may."""
        if self.mode is Mode.ACT:
            self.outbox.send_owed_revokes()
        for page in plan(self.adapter, phase, self.sources):
            store_sightings(self.adapter, page, self.sources.scanned_at)
            self.note(page)
            # Those that cannot be written leave their room to those behind them; without room, these are not even read.
            if len(self.acting) >= self.room:
                self.act_on_tallied()
                if not self.room or self.refusals >= MAX_DB_ERRORS:
                    break
        # Rows that no rule knows are looked for by one of the two sweeps: it is the rarer one.
        if phase is Phase.QUEUED:
            for runs in self.adapter.iter_unfinished(Phase.UNKNOWN):
                self.skip(runs)

    def note(self, verdicts: Sequence[Verdict]) -> None:
        """Count a page's verdicts, and keep those that are more than LEAVE."""
        self.row.scanned += len(verdicts)
        self.counts.update(str(each.decision.reason) for each in verdicts)
        self.acting += [each for each in verdicts if each.decision.action is not Action.LEAVE]

    def act_on_tallied(self) -> None:
        """Act on what was kept, as far as the brake lets; when only observing, note it down."""
        verdicts, self.acting = self.acting, []
        # guard: observing
        if self.mode is Mode.DRY_RUN:
            would = [dry_run_note(each, self.now) for each in verdicts]
            return record_dry_run(self.adapter, would, self.now, self.adapter.kind)
        of = {action: [each for each in verdicts if each.decision.action is action] for action in Action}
        self.republish([each.run for each in of[Action.REPUBLISH]])
        # That a child's parent has ended is a fact, and no evidence that could mislead.
        self.act_on(of[Action.CLOSE])
        reaping = [*of[Action.FAIL], *of[Action.REQUEUE]]
        self.brake(len(reaping))
        self.act_on(reaping)

    def act_on(self, verdicts: Sequence[Verdict]) -> None:
        """Act batch by batch while there is room; what could not be written takes none."""
        start = 0
        # guard: the switch within one batch
        while start < len(verdicts) and self.room and not self.stopped():
            # guard: the most that a sweep acts on
            batch = verdicts[start : start + min(BATCH, self.room)]
            self.act(batch)
            start += len(batch)
        self.row.deferred += len(verdicts) - start

    def terminate_leftovers(self) -> None:
        """Kill what still works on runs that it lost a while ago."""
        if self.row.phase == Phase.RUNNING and self.mode is Mode.ACT:
            self.outbox.terminate_leftovers(self.sources.fleet, self.stopped)

    def republish(self, runs: Sequence[RunFacts]) -> None:
        """Publish once more what was never confirmed."""
        sent = self.outbox.republish(runs[: self.room]) if runs and not self.stopped() else 0
        self.row.acted += sent
        self.row.deferred += len(runs) - sent

    def brake(self, reaping: int) -> None:
        """Let no more than a few be acted on from now on where it would be most of the runs; tell why."""
        if sentence := silence_hold(self.counts, self.sources):
            self.tell(sentence)
        unfinished = self.row.scanned - self.counts[Reason.UNKNOWN_STATUS]
        if sentence := volume_hold(self.adapter, self.row.phase, reaping, unfinished, self.now):
            self.limit = min(self.limit, self.row.acted + brake.HELD_LIMIT)
            self.tell(sentence)

    def stopped(self) -> bool:
        """Return whether somebody has switched the kind off, or to observe, since the sweep began; it is told."""
        if self.mode is Mode.ACT and not self.actor:
            self.mode = switches.state_of(self.adapter, clock.now(self.adapter.using)).mode
            if self.mode is not Mode.ACT:
                self.tell("it was switched off meanwhile: the rest was left alone")
        return self.mode is not Mode.ACT

    def skip(self, runs: Sequence[RunFacts]) -> None:
        """Count runs that have no rule."""
        self.row.scanned += len(runs)
        self.counts[Reason.UNKNOWN_STATUS] += len(runs)

    def act(self, batch: Sequence[Verdict]) -> None:
        """Write one batch, then send what follows from it."""
        # A broker that refuses spends no run's budget: what would have to be published waits for a later sweep. What a
        # person asks for is done, and published when the broker is back.
        # guard: no requeue while the broker is down
        waits = bool(self.broker.error) and not self.actor
        doable = [each for each in batch if not (waits and each.decision.action is Action.REQUEUE)]
        changes = [self.change(each) for each in doable]
        self.row.deferred += len(batch) - len(changes)
        # Owed from the commit on, whatever goes wrong before the broker has taken it.
        # guard: a revoke is owed from the commit on
        revoked, self.revoked = self.revoked, False
        won = self.write(changes)
        self.row.acted += len(won)
        self.revoked = (
            self.outbox.revoke([ledger.revoke_request(change) for change in won if change.run.task_id]) and revoked
        )
        self.outbox.publish(won)
        for parent in dict.fromkeys(change.run.parent for change in won):
            if parent is not None:
                self.finalize(parent)
        for change in won:
            reaped.send_robust(sender=type(self.adapter), run=change.run, decision=change.decision)

    @property
    def room(self) -> int:
        """Return how many more runs this sweep may act on."""
        return max(0, self.limit - self.row.acted)

    def change(self, each: Verdict) -> RunUpdate:
        """Return the change that a verdict asks for."""
        new_task_id = str(uuid.uuid4()) if each.decision.action is Action.REQUEUE else ""
        message = describe_action(each.run, each.decision, self.now, actor=self.actor)
        return RunUpdate(each.run, each.decision, message, new_task_id, each.evidence)

    def write(self, changes: Sequence[RunUpdate]) -> Sequence[RunUpdate]:
        """Write the changes with their ledger rows in one transaction; return those that were written.

        The ledger is only ever added to: a batch of which some have moved on is undone, and done without them. When a
        batch as a whole fails, each run is tried by itself, so that one bad row does not stop the others.
        """
        while changes:
            # guard: a slow database is given up
            if self.refusals >= MAX_DB_ERRORS:
                self.tell("the database refused too often: the rest waits for the next sweep")
                self.row.deferred += len(changes)
                return []
            try:
                won = self.attempt(changes)
            except Exception as error:
                self.refusals += isinstance(error, OperationalError)
                if len(changes) > 1:
                    return [change for each in changes for change in self.write([each])]
                logger.exception("%s:%s could not be written", self.adapter.kind, one_line(changes[0].run.pk))
                self.tell(f"{changes[0].run.pk} could not be written: {type(error).__name__}: {error}")
                return []
            self.row.conflicts += len(changes) - len(won)
            if len(won) == len(changes):
                break
            changes = won
        return changes

    def attempt(self, changes: Sequence[RunUpdate]) -> Sequence[RunUpdate]:
        """Write a batch; return those that could be. Unless that is all of them, nothing is."""
        self.open()
        # guard: the ledger in the same transaction
        with short_transaction(self.adapter.using):
            # First, for it takes longer: no worker's write waits for it, as no run is locked yet.
            ledger.record_updates(self.adapter, changes, self.now, self.row, self.actor)
            won = self.adapter.apply(changes, self.now)
            # guard: no ledger of what was not written
            if len(won) < len(changes):
                transaction.set_rollback(True, using=self.adapter.using)
        return won

    def finalize(self, parent: str) -> None:
        """Give a parent its outcome, with a ledger row in the same transaction."""
        self.open()
        try:
            with short_transaction(self.adapter.using):
                if self.adapter.finalize(parent):
                    ledger.record_finalization(self.adapter, parent, self.now, self.row, self.actor)
                    self.row.finalized += 1
        except Exception as error:
            logger.exception("parent %s could not be finalized", one_line(parent))
            self.tell(f"parent {parent} could not be finalized: {type(error).__name__}: {error}")

    def open(self) -> None:
        """Save the row before the first act: a sweep that is cut off leaves it behind, without an end."""
        if self.row.pk is None:
            self.row.save(using=self.adapter.using)

    def close(self) -> Sweep:
        """Save what the sweep did, or, when it did nothing, move its kind's idle row on; say so once."""
        row, using = self.row, self.adapter.using
        row.counts, row.errors, row.finished_at = dict(self.counts), self.errors, clock.now(using)
        # guard: an owed revoke
        row.revoked_at = row.finished_at if self.revoked else None
        if row.had_effect or self.actor:
            row.save(using=using)
            log = logger.warning if row.errors else logger.info
            log("swept %s %s: %s", row.kind, row.phase, row.summary)
        else:
            if row.pk is not None:
                row.delete(using=using)
            times = {name: getattr(row, name) for name in ("started_at", "finished_at", "mode", "scanned", "counts")}
            row = Sweep.objects.using(using).update_or_create(
                kind=row.kind, phase=row.phase, idle=True, defaults=times
            )[0]
        swept.send_robust(sender=Sweep, sweep=row)
        return row


def dry_run_note(each: Verdict, now: datetime) -> Observation:
    """Return the note of what would have been done with one run."""
    return Observation(
        run_id=each.run.pk,
        task_id=each.run.task_id or "",
        phase=each.run.phase,
        action=each.decision.action,
        reason=each.decision.reason,
        message=describe_action(each.run, each.decision, now),
    )


def record_dry_run(adapter: RunAdapter, would: Sequence[Observation], now: datetime, kind: str) -> None:
    """Keep what would have been done, once per run, task and reason."""
    for each in would:
        each.kind, each.created_at = kind, now
    Observation.objects.using(adapter.using).bulk_create(would, ignore_conflicts=True, batch_size=BATCH)


@contextmanager
def short_transaction(using: str) -> Iterator[None]:
    """Open a transaction that waits for no lock for long.

    Durable: inside a caller's transaction the messages would go out before the commit, so that is a RuntimeError.
    """
    # guard: no sweep inside a transaction
    with transaction.atomic(using=using, durable=True):
        connection = connections[using]
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                sql = "SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true)"
                cursor.execute(sql, [LOCK_TIMEOUT, STATEMENT_TIMEOUT])
        yield
