"""The evidence on runs that wait: where their message is, and whether an earlier scan found the same."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

from reaper.broker.snapshot import QueueSnapshot
from reaper.core.facts import Evidence, MessageLocation, RunFacts
from reaper.evidence import uncertainties
from reaper.evidence.finding import Finding
from reaper.evidence.fleet import Fleet
from reaper.evidence.heartbeats import evidence_in_heartbeats
from reaper.evidence.sightings import load_sightings
from reaper.evidence.sources import EvidenceSources
from reaper.models import MessageSighting

# A dispatch commits before it publishes. Only the second sighting acts, so the first may come early; a later first one
# would find what is lost a whole interval of the sweeps later.
PUBLISH_TIME = timedelta(seconds=2)


class Location(NamedTuple):
    """Where a message is."""

    place: MessageLocation
    """UNKNOWN where a queue could not be read, or where a worker may have it that sends no heartbeat."""
    reason: str = ""
    """Why the place is not known, as a sentence; '' where it is known, or no reason is."""


def is_past_publish(run: RunFacts, now: datetime) -> bool:
    """Return whether a run was dispatched longer ago than it takes to publish its message."""
    age = run.age(now)
    return bool(run.task_id) and age is not None and age > PUBLISH_TIME


def collect_queued(sources: EvidenceSources, runs: Sequence[RunFacts]) -> list[Finding]:
    """Return the evidence on runs that wait, in their order."""
    if not runs:
        return []
    snapshot = sources.queue_snapshot
    sightings = load_sightings(sources.adapter, runs)
    return [Finding(run, evidence_on_message(sources, run, snapshot, sightings.get(run.pk))) for run in runs]


def evidence_on_message(
    sources: EvidenceSources, run: RunFacts, snapshot: QueueSnapshot, sighting: MessageSighting | None
) -> Evidence:
    """Return the evidence on one run that waits; `sighting` is what an earlier scan found, None without one."""
    location = locate_message(run.task_id or "", snapshot, sources.fleet)
    evidence = evidence_in_heartbeats(run, sources.fleet, sources.queue)
    if sighting is not None and (sighting.task_id, sighting.message_location) != (run.task_id, location.place):
        sighting = None
    is_unknown = location.place is MessageLocation.UNKNOWN
    return replace(
        evidence,
        message_location=location.place,
        waiting=snapshot.depth.get(sources.queue),
        first_sighting_at=sighting.seen_at if sighting else None,
        all_reported_since=bool(sighting and sources.fleet.all_reported_since(sighting.seen_at)),
        overtaken=is_unknown and not evidence.holder and was_overtaken(sources, run),
        uncertainties=(*evidence.uncertainties, *([location.reason] if location.reason else [])),
    )


def locate_message(task_id: str, snapshot: QueueSnapshot, fleet: Fleet) -> Location:
    """Return where the task's message is."""
    if task_id in snapshot.waiting:
        return Location(MessageLocation.WAITING)
    if task_id in snapshot.unacked:
        return Location(MessageLocation.DELIVERED)
    if not snapshot.is_absent(task_id, list(snapshot.depth)):
        return Location(MessageLocation.UNKNOWN, snapshot.error)
    for queue, consumers in snapshot.consumers.items():
        # A consumer that sends no heartbeat may have been handed the message.
        # guard: more consumers than reporting workers
        if consumers is not None and consumers > len(fleet.consumers(queue)):
            return Location(MessageLocation.UNKNOWN, uncertainties.unreported_consumers(queue, consumers))
    return Location(MessageLocation.ABSENT)


def was_overtaken(sources: EvidenceSources, run: RunFacts) -> bool:
    """Return whether a run has started that was dispatched later by at least the whole queue timeout."""
    age = run.age(sources.now)
    since = run.phase_since(sources.now)
    timeout = sources.policy.queue_timeout
    if age is None or since is None or age <= timeout or sources.latest_started_dispatch is None:
        return False
    return sources.latest_started_dispatch - since >= timeout
