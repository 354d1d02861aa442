"""The brake: when very many runs look stuck at once, the reaper's view is more likely wrong than the runs. Pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

MASS_PERCENT = 55
"""From this share on, the cause is no longer with single workers or runs.

Taken from Kubernetes' node controller, which slows evictions down when 55 % of a zone's nodes are not ready.
"""
MIN_WORKERS = 3
"""Fewer silent workers never count as a mass, unless they are all; this too is the node controller's number."""
HELD_LIMIT = 20
"""How many runs a sweep may always act on; while the brake is engaged, it acts on no more than these."""


class ReportingPeriod(Protocol):
    """When a worker reported."""

    @property
    def since(self) -> datetime:
        """Return since when it has reported without a gap."""

    @property
    def seen_at(self) -> datetime:
        """Return when it sent its last heartbeat."""

    @property
    def ended_at(self) -> datetime | None:
        """Return when it shut down cleanly; None if it has not."""

    @property
    def alive(self) -> bool:
        """Return whether it still reports."""


class MassSilence(NamedTuple):
    """Workers of one queue that stopped reporting together."""

    silent: int
    """How many stopped reporting."""
    reporting: int
    """How many had been reporting until then, these included."""


def detect_mass_silence(workers: Sequence[ReportingPeriod], silence: timedelta, now: datetime) -> MassSilence | None:
    """Return how many of a queue's workers stopped reporting together, if that is not over; else None.

    Together means within `silence`, after which a worker counts as dead. If it is all of them, or MASS_PERCENT and at
    least MIN_WORKERS, then the network or the database has more likely failed than each of the workers, which may still
    be working. A worker that shut down cleanly is not silent. The silence is over when a worker that began to report
    later has done so for a whole silence limit: by then the others could report as well.
    """
    newest = max((each.since for each in workers if each.alive and now - each.since >= silence), default=None)
    for last in sorted((each for each in workers if is_silent(each)), key=lambda each: each.seen_at):
        if newest is not None and newest > last.seen_at:
            continue
        reporting = [each for each in workers if was_reporting_at(each, last.seen_at)]
        silent = [each for each in reporting if is_silent(each) and each.seen_at <= last.seen_at + silence]
        found = MassSilence(len(silent), len(reporting))
        if found.silent == found.reporting or (found.silent >= MIN_WORKERS and is_mass(*found)):
            return found
    return None


def is_silent(worker: ReportingPeriod) -> bool:
    """Return whether the worker stopped reporting without a clean shutdown."""
    return not worker.alive and worker.ended_at is None


def was_reporting_at(worker: ReportingPeriod, moment: datetime) -> bool:
    """Return whether the worker was reporting at the moment."""
    ended = worker.ended_at is not None and worker.ended_at <= moment
    return worker.since <= moment <= worker.seen_at and not ended


def exceeds_limit(to_act: int, unfinished: int) -> bool:
    """Return whether a sweep would act on so many of the unfinished runs that a person should check first."""
    # guard: brake: engaged by the share of runs
    return to_act > HELD_LIMIT and is_mass(to_act, unfinished)


def is_mass(count: int, total: int) -> bool:
    """Return whether the share of the total is MASS_PERCENT or more."""
    return 100 * count >= MASS_PERCENT * total
