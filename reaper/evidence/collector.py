"""The evidence on a page of runs: what the broker, the heartbeats and the workers themselves know about their tasks.

They are read in the order in which a message travels: first the queues, then the heartbeats and, before a verdict that
rests on a task's absence, the workers themselves. No transaction is open in the meantime, and nothing is written.
"""

from collections.abc import Sequence
from datetime import datetime

from reaper.adapters import RunAdapter
from reaper.broker.connection import Broker
from reaper.core.decisions import decide
from reaper.core.facts import NO_EVIDENCE, Phase, RunFacts
from reaper.core.policy import Policy
from reaper.core.reasons import ABSENCE_REASONS
from reaper.evidence import uncertainties
from reaper.evidence.finding import Finding
from reaper.evidence.fleet import Fleet
from reaper.evidence.inspection import merge_inspection
from reaper.evidence.queued import collect_queued, is_past_publish
from reaper.evidence.running import collect_running
from reaper.evidence.sources import EvidenceSources


class EvidenceCollector:
    """Collects the evidence for one sweep of one kind, however many pages of runs it has."""

    def __init__(
        self,
        adapter: RunAdapter,
        broker: Broker,
        policy: Policy,
        now: datetime,
        *,
        may_inspect: bool = True,
        fleet: Fleet | None = None,
    ) -> None:
        """Judge by this policy at this time.

        `may_inspect` is whether to ask the workers themselves, which takes seconds where some are silent; a page that
        only displays does not ask. `fleet` are workers that were loaded already; without it, they are when needed.
        """
        self.adapter = adapter
        self.policy = policy
        self.now = now
        self.may_inspect = may_inspect
        self.sources = EvidenceSources(adapter, broker, policy, now, fleet)

    @property
    def fleet(self) -> Fleet:
        """Return the workers, as they were read last."""
        return self.sources.fleet

    @property
    def scanned_at(self) -> datetime | None:
        """Return when the queues were scanned, by the clock of the runs' database; None when they were not."""
        return self.sources.scanned_at

    @property
    def mass_silence(self) -> str:
        """Return the sentence that many workers fell silent together, so that absence decides nothing; '' otherwise.

        It is also '' until something has been collected.
        """
        fleet = self.sources.loaded_fleet
        silence = fleet.mass_silence(self.sources.queue) if fleet else None
        return uncertainties.mass_silence(silence, self.sources.queue) if silence else ""

    def gather(self, runs: Sequence[RunFacts]) -> list[Finding]:
        """Return the runs, in their order, with the evidence on each.

        Takes at most `SCAN_TIMEOUT_S` once and `INSPECT_TIMEOUT_S` per call, besides the database. What goes wrong with
        the broker or the workers is in the evidence's `uncertainties`. Raises django.db.Error.
        """
        findings = {run.pk: Finding(run, NO_EVIDENCE) for run in runs}
        queued = [run for run in runs if run.phase is Phase.QUEUED and is_past_publish(run, self.now)]
        collected = collect_queued(self.sources, queued)
        collected += [collect_running(self.sources, run) for run in runs if run.phase is Phase.RUNNING]
        findings |= {each.run.pk: self._with_tentative_decision(each) for each in collected}
        doubtful = [each for each in findings.values() if each.decision and each.decision.reason in ABSENCE_REASONS]
        if doubtful and self.may_inspect:
            result = self.sources.inspect([each.run.task_id for each in doubtful if each.run.task_id])
            findings |= {each.run.pk: each for each in merge_inspection(self.sources, doubtful, result)}
        return [findings[run.pk] for run in runs]

    def _with_tentative_decision(self, finding: Finding) -> Finding:
        """Return the finding with the decision that would follow, where that may rest on the task's absence."""
        if not finding.evidence.absent:
            return finding
        try:
            return finding._replace(decision=decide(finding.run, finding.evidence, self.policy, self.now))
        except Exception:  # ignored here: judging the run repeats it, and logs the error
            return finding
