"""Sightings: an earlier scan that found a queued run's message in no queue, or delivered and not acknowledged.

Nothing is decided on the first sighting, as a message in transit is in neither place. The next sweep compares.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from django.db import connections

from reaper.adapters import RunAdapter
from reaper.core.facts import NO_EVIDENCE, MessageLocation, Phase, RunFacts
from reaper.evidence.finding import HasEvidence
from reaper.models import MessageSighting

SIGHTED_LOCATIONS = (MessageLocation.ABSENT, MessageLocation.DELIVERED)


def load_sightings(adapter: RunAdapter, runs: Iterable[RunFacts]) -> dict[str, MessageSighting]:
    """Return the stored sightings of these runs, by the run's key."""
    rows = MessageSighting.objects.using(adapter.using).filter(kind=adapter.kind, run_id__in=[run.pk for run in runs])
    return {row.run_id: row for row in rows}


def store_sightings(adapter: RunAdapter, found: Iterable[HasEvidence], scanned_at: datetime | None) -> None:
    """Store the first sighting of each message that is not waiting; delete those of messages that were found again.

    `scanned_at` is when the queues were scanned, by the clock of the runs' database; None when they were not, and then
    nothing is stored.
    """
    scanned = [each for each in found if each.run.phase is Phase.QUEUED and each.evidence is not NO_EVIDENCE]
    if not scanned or scanned_at is None:
        return
    insert_sightings(adapter, [each for each in scanned if is_first_sighting(each)], scanned_at)
    recovered = [each.run.pk for each in scanned if is_recovered(each)]
    MessageSighting.objects.using(adapter.using).filter(kind=adapter.kind, run_id__in=recovered).delete()


def insert_sightings(adapter: RunAdapter, found: Sequence[HasEvidence], scanned_at: datetime) -> None:
    """Store these runs' sightings, each in the place of an older one of the same run."""
    rows = [
        MessageSighting(
            kind=adapter.kind,
            run_id=each.run.pk,
            task_id=each.run.task_id or "",
            message_location=each.evidence.message_location,
            seen_at=scanned_at,
        )
        for each in found
    ]
    # MySQL determines the conflicting constraint by itself, and accepts no target.
    accepts_target = connections[adapter.using].features.supports_update_conflicts_with_target
    MessageSighting.objects.using(adapter.using).bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["kind", "run_id"] if accepts_target else None,
        update_fields=["task_id", "message_location", "seen_at"],
    )


def is_first_sighting(found: HasEvidence) -> bool:
    """Return whether the message is not waiting, nobody holds the task, and no earlier scan found the same."""
    evidence = found.evidence
    is_sighted = evidence.message_location in SIGHTED_LOCATIONS
    return is_sighted and not evidence.holder and evidence.first_sighting_at is None


def is_recovered(found: HasEvidence) -> bool:
    """Return whether the message is waiting, or a worker holds the task."""
    return bool(found.evidence.holder) or found.evidence.message_location is MessageLocation.WAITING
