"""Merge the workers' own answers into evidence of a task's absence, which they may contradict."""

from collections.abc import Sequence
from dataclasses import replace

from reaper.core.facts import Phase
from reaper.evidence import uncertainties
from reaper.evidence.finding import Finding
from reaper.evidence.fleet import Fleet
from reaper.evidence.sources import EvidenceSources
from reaper.workers.inspect import InspectionResult


def merge_inspection(sources: EvidenceSources, findings: Sequence[Finding], result: InspectionResult) -> list[Finding]:
    """Return the findings, in their order; each changes where a worker has the task, or an answer is uncertain."""
    shared = uncertainties_in(result, sources.fleet)
    return [merge_into(sources, finding, result, shared) for finding in findings]


def merge_into(sources: EvidenceSources, finding: Finding, result: InspectionResult, shared: Sequence[str]) -> Finding:
    """Return one finding with the workers' answer; `shared` are the uncertainties about every task."""
    run, evidence, _ = finding
    node = result.holders.get(run.task_id or "", "")
    reasons = [*shared, *unread_deliveries(sources, result)] if run.phase is Phase.QUEUED else [*shared]
    # guard: an uncertain inspection
    if not node and not reasons:
        return finding
    return Finding(
        run,
        replace(
            evidence,
            holder=node,
            active_since=sources.now if run.task_id in result.active else None,
            absent=False,
            uncertainties=(*evidence.uncertainties, *reasons),
        ),
    )


def unread_deliveries(sources: EvidenceSources, result: InspectionResult) -> list[str]:
    """Return which workers may have been sent a queued run's message without having read it.

    RabbitMQ does not show delivered messages, and a worker too busy to answer may not have read its own. Redis, which
    shows them, knows no consumers.
    """
    if sources.queue_snapshot.consumers.get(sources.queue) is None:
        return []
    silent = sources.fleet.consumers(sources.queue) - result.responded_fully
    return [uncertainties.unread_delivery(node) for node in sorted(silent)]


def uncertainties_in(result: InspectionResult, fleet: Fleet) -> list[str]:
    """Return why a task that no worker has named may be held all the same."""
    reasons = [uncertainties.failed_inspection(result.error)] if result.error else []
    reasons += [uncertainties.duplicate_node(node) for node in sorted(result.duplicate_nodes)]
    reasons += [uncertainties.unknown_worker(node) for node in sorted(result.responded - fleet.hostnames)]
    if result.malformed:
        reasons.append(uncertainties.malformed_replies(result.malformed))
    return reasons
