"""The evidence on runs that have started: the worker that claimed them, and the worker that holds their task."""

from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from reaper.core.facts import Evidence, Liveness, RunFacts
from reaper.evidence.finding import Finding
from reaper.evidence.fleet import Fleet
from reaper.evidence.heartbeats import evidence_in_heartbeats, task_started_at
from reaper.evidence.sources import EvidenceSources


class EvidenceKey(NamedTuple):
    """Everything that the evidence on a running run depends on: runs with the same key share it."""

    queue: str
    claimant: str
    has_task_id: bool
    holder: str
    last_holder: str
    active_since: datetime | None
    retry_waiting: bool


def collect_running(sources: EvidenceSources, run: RunFacts) -> Finding:
    """Return the evidence on a run that has started, and the run with its claimant's `skew`."""
    # The queues are read before the heartbeats, as a message travels.
    retries = sources.adapter.keeps_status_while_retrying
    waiting = sources.queue_snapshot.waiting if retries else frozenset()
    fleet = sources.fleet
    task_id = run.task_id or ""
    claimant = fleet.by_name.get(run.worker)
    holder = fleet.holders.get(task_id)
    last_holder = fleet.last_holders.get(task_id)
    if claimant is not None and claimant.skew != run.skew:
        run = replace(run, skew=claimant.skew)
    key = EvidenceKey(
        queue=sources.queue,
        claimant=run.worker,
        has_task_id=bool(task_id),
        holder=holder.name if holder else "",
        last_holder=last_holder.name if last_holder else "",
        active_since=task_started_at(holder, task_id) if holder else None,
        retry_waiting=bool(task_id) and holder is None and task_id in waiting,
    )
    if key not in fleet.shared_evidence:
        fleet.shared_evidence[key] = evidence_on_claim(run, fleet, key)
    return Finding(run, fleet.shared_evidence[key])


def evidence_on_claim(run: RunFacts, fleet: Fleet, key: EvidenceKey) -> Evidence:
    """Return the evidence that the heartbeats have on a run and on the worker that claimed it."""
    evidence = replace(evidence_in_heartbeats(run, fleet, key.queue), retry_waiting=key.retry_waiting)
    claimant = fleet.by_name.get(run.worker)
    if claimant is not None:
        evidence = replace(
            evidence,
            claimant_liveness=Liveness.ALIVE if claimant.alive else Liveness.DEAD,
            claimant_seen_at=claimant.seen_at,
            claimant_listed_at=claimant.listed_at,
        )
    # Also of a worker that is still alive: its tasks are cut off before it has ended.
    worker = claimant or fleet.by_name.get(evidence.last_holder)
    return replace(evidence, shutdown_announced=worker is not None and worker.draining)
