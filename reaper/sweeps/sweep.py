"""A sweep of runs: (adapter, phase) -> `Sweep`. Judges the unfinished runs page by page, and carries out the verdicts.

Every act is one transaction per batch (`writer.py`). Only after its commit are old tasks revoked, new ones published
and parents completed; what the broker does not take is in the ledger and is sent by the next sweep. So a sweep may be
cut off anywhere, run twice, or overlap with another.
"""

from collections.abc import Sequence

from reaper.adapters import RunAdapter
from reaper.broker.connection import Broker
from reaper.controls.overrides import effective_policy
from reaper.core import brake
from reaper.core.facts import Phase, RunFacts
from reaper.core.policy import Action, Mode
from reaper.core.reasons import Reason
from reaper.evidence.collector import EvidenceCollector
from reaper.evidence.sightings import store_sightings
from reaper.models import Sweep
from reaper.sweeps.dry_run import record_verdicts
from reaper.sweeps.execution import Executor
from reaper.sweeps.holds import find_silence_hold, find_volume_hold
from reaper.sweeps.judging import Verdict, judge_phase
from reaper.sweeps.mode import ModeWatch
from reaper.sweeps.record import SweepLog
from reaper.sweeps.writer import BATCH


def sweep(adapter: RunAdapter, phase: Phase) -> Sweep:
    """Sweep one kind and phase; return its `Sweep` row.

    Raise nothing for a run, the broker or the adapter: the row records what went wrong.
    """
    with Broker() as broker:
        run = SweepRun(adapter, phase, broker)
        # guard: mode: off
        if run.watch.mode is not Mode.OFF:
            with run.log.errors_recorded():
                run.judge_and_act()
            # Act on what was read, even if reading failed half-way.
            with run.log.errors_recorded():
                run.act_on_tallied()
            with run.log.errors_recorded():
                run.terminate_leftovers()
        return run.log.close()


class SweepRun:
    """The loop of one sweep: what is judged, how much of it is acted on, and when it stops."""

    def __init__(self, adapter: RunAdapter, phase: Phase, broker: Broker) -> None:
        self.adapter = adapter
        self.phase = phase
        self.log = SweepLog(adapter, phase)
        self.watch = ModeWatch(self.log)
        self.executor = Executor(adapter, broker, self.log)
        policy = effective_policy(adapter)
        self.collector = EvidenceCollector(adapter, broker, policy, self.log.now)
        self.limit = policy.max_actions
        """The number of runs that it may act on, unless the brake lowers it."""
        self.tallied: list[Verdict] = []
        """Verdicts that ask for an action and were not acted on yet."""

    @property
    def remaining(self) -> int:
        """Return how many more runs this sweep may act on."""
        return max(0, self.limit - self.log.row.acted)

    def judge_and_act(self) -> None:
        """Judge the unfinished runs; act whenever as many are tallied as the sweep may still act on."""
        if self.watch.is_acting:
            self.executor.outbox.send_owed_revokes()
        for page in judge_phase(self.adapter, self.phase, self.collector):
            store_sightings(self.adapter, page, self.collector.scanned_at)
            self.tally(page)
            # Runs that cannot be written do not count towards the limit; once it is reached, no more runs are read.
            if len(self.tallied) >= self.remaining:
                self.act_on_tallied()
                if not self.remaining or self.executor.writer.has_given_up:
                    break
        # Runs of a status that the adapter does not map are counted by one of the two sweeps: the less frequent one.
        if self.phase is Phase.QUEUED:
            for runs in self.adapter.iter_unfinished(Phase.UNKNOWN):
                self.tally_unmapped(runs)

    def tally(self, verdicts: Sequence[Verdict]) -> None:
        """Count a page's verdicts, and keep those that ask for an action."""
        self.log.row.scanned += len(verdicts)
        self.log.counts.update(str(each.decision.reason) for each in verdicts)
        self.tallied += [each for each in verdicts if each.decision.action is not Action.LEAVE]

    def tally_unmapped(self, runs: Sequence[RunFacts]) -> None:
        """Count runs whose status the adapter does not map."""
        self.log.row.scanned += len(runs)
        self.log.counts[Reason.UNKNOWN_STATUS] += len(runs)

    def act_on_tallied(self) -> None:
        """Act on what was tallied, as far as the brake allows; in a dry run, record it instead."""
        verdicts = self.tallied
        self.tallied = []
        # guard: mode: dry run
        if self.watch.mode is Mode.DRY_RUN:
            record_verdicts(self.adapter, verdicts, self.log.now)
            return
        by_action = {action: [each for each in verdicts if each.decision.action is action] for action in Action}
        self.republish(by_action[Action.REPUBLISH])
        # The brake does not apply: that a parent has ended is a fact, not evidence that could mislead.
        self.act_on(by_action[Action.CLOSE])
        recoveries = [*by_action[Action.FAIL], *by_action[Action.REQUEUE]]
        self.apply_holds(len(recoveries))
        self.act_on(recoveries)

    def act_on(self, verdicts: Sequence[Verdict]) -> None:
        """Act batch by batch while the sweep may; what could not be written does not count towards its limit."""
        start = 0
        # guard: mode: checked between batches
        while start < len(verdicts) and self.remaining and not self.watch.is_stopped():
            # guard: limit of actions per sweep
            batch = verdicts[start : start + min(BATCH, self.remaining)]
            self.executor.execute(batch)
            start += len(batch)
        self.log.row.deferred += len(verdicts) - start

    def republish(self, verdicts: Sequence[Verdict]) -> None:
        """Publish again what was never confirmed."""
        runs = [each.run for each in verdicts]
        sent = self.executor.republish(runs[: self.remaining]) if runs and not self.watch.is_stopped() else 0
        self.log.row.deferred += len(runs) - sent

    def apply_holds(self, recoveries: int) -> None:
        """Lower the limit if most of the runs would be acted on; record what holds the sweep back."""
        self.log.add_hold(find_silence_hold(self.log.counts, self.collector))
        unfinished = self.log.row.scanned - self.log.counts[Reason.UNKNOWN_STATUS]
        hold = find_volume_hold(self.adapter, self.phase, recoveries, unfinished, self.log.now)
        if hold is not None:
            self.limit = min(self.limit, self.log.row.acted + brake.HELD_LIMIT)
            self.log.add_hold(hold)

    def terminate_leftovers(self) -> None:
        """Kill tasks that still work on runs that they lost a while ago."""
        if self.phase is Phase.RUNNING and self.watch.is_acting:
            self.executor.outbox.terminate_leftovers(self.collector.fleet, self.watch.is_stopped)
