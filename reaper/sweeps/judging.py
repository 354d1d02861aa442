"""Evidence and decision: `RunFacts` -> `Verdict`. Nothing is written."""

import logging
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from reaper.adapters import RunAdapter
from reaper.broker.connection import Broker
from reaper.controls.overrides import effective_policy
from reaper.core.decisions import Decision, decide, leave
from reaper.core.facts import NO_EVIDENCE, Evidence, Phase, RunFacts
from reaper.core.formatting import one_line
from reaper.core.policy import Policy
from reaper.core.reasons import Reason
from reaper.evidence.collector import EvidenceCollector
from reaper.evidence.finding import Finding
from reaper.sweeps.candidates import add_context, iter_candidates

logger = logging.getLogger(__name__)


class Verdict(NamedTuple):
    """One run, and what was decided about it."""

    run: RunFacts
    """The run as it was read."""
    decision: Decision
    """What to do with it, and why."""
    evidence: Evidence = NO_EVIDENCE
    """What the decision rests on."""


def judge_run(adapter: RunAdapter, pk: str, now: datetime) -> Verdict | None:
    """Return what a sweep would do with one run now; None when there is no such run."""
    run = adapter.get(pk)
    if run is None:
        return None
    with Broker() as broker:
        return judge_runs([run], EvidenceCollector(adapter, broker, effective_policy(adapter), now))[0]


def judge_phase(adapter: RunAdapter, phase: Phase, collector: EvidenceCollector) -> Iterator[list[Verdict]]:
    """Yield the verdicts on all unfinished runs of a phase, page by page."""
    for page in iter_candidates(adapter, phase, collector.now):
        yield judge_candidates(page, collector)


def judge_runs(runs: Sequence[RunFacts], collector: EvidenceCollector) -> list[Verdict]:
    """Return the verdicts on some runs, in their order."""
    return judge_candidates(add_context(collector.adapter, runs, collector.now), collector)


def judge_candidates(candidates: Sequence[RunFacts], collector: EvidenceCollector) -> list[Verdict]:
    """Return the verdicts on runs that carry their history and exemption already, in their order."""
    return [judge(finding, collector.policy, collector.now) for finding in collector.gather(candidates)]


def judge(finding: Finding, policy: Policy, now: datetime) -> Verdict:
    """Return the verdict on one run. A run that the rules fail on is left alone and does not stop the others."""
    run = finding.run
    try:
        decision = finding.decision or decide(run, finding.evidence, policy, now)
    except Exception:
        logger.exception("%s:%s could not be judged", run.kind, one_line(run.pk))
        decision = leave(Reason.JUDGING_FAILED)
    return Verdict(run, decision, finding.evidence)
