"""How much may be reaped now. Pure: a reaper that goes wrong is worse than none, and it goes wrong in masses."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

# From this share on, with at least so many, it is no longer single workers or runs that are in trouble. Of Kubernetes'
# node controller, which slows its evictions down when 55 % of a zone's nodes, and at least three, are not ready.
MASS_PERCENT = 55
MIN_WORKERS = 3
# A sweep that would act on no more runs than this is never held; one that is held acts on so many.
HELD_LIMIT = 20
# How a sweep's sentence begins that says that it was held.
HELD = "held: "


class ReportingPeriod(Protocol):
    """When a worker was heard of."""

    @property
    def since(self) -> datetime: ...  # noqa: D102
    @property
    def seen_at(self) -> datetime: ...  # noqa: D102
    @property
    def ended_at(self) -> datetime | None: ...  # noqa: D102
    @property
    def alive(self) -> bool: ...  # noqa: D102


def detect_mass_silence(
    workers: Sequence[ReportingPeriod], silence: timedelta, now: datetime
) -> tuple[int, int] | None:
    """Return how many of how many workers of a queue fell silent together, while nobody has come since; or None.

    Together means within `silence`, after which a worker counts as dead. When it was all of them, or `PERCENT` and at
    least `WORKERS`, it is more likely the network, or the database, than each of them, and they may go on working
    unheard. One that said goodbye is not silent. A worker that has come since, and has been there for a whole silence
    limit itself, shows that the way is open again for whoever is left.
    """
    newest = max((each.since for each in workers if each.alive and now - each.since >= silence), default=None)
    for last in sorted((each for each in workers if is_silent(each)), key=lambda each: each.seen_at):
        if newest is not None and newest > last.seen_at:
            continue
        there = [each for each in workers if was_reporting_at(each, last.seen_at)]
        silent = [each for each in there if is_silent(each) and each.seen_at <= last.seen_at + silence]
        if len(silent) == len(there) or (len(silent) >= MIN_WORKERS and is_most(len(silent), len(there))):
            return len(silent), len(there)
    return None


def is_silent(worker: ReportingPeriod) -> bool:
    """True when the worker is not heard of any more and did not say goodbye."""
    return not worker.alive and worker.ended_at is None


def was_reporting_at(worker: ReportingPeriod, moment: datetime) -> bool:
    """True when the worker was reporting at the moment."""
    ended = worker.ended_at is not None and worker.ended_at <= moment
    return worker.since <= moment <= worker.seen_at and not ended


def exceeds_limit(acting: int, seen: int) -> bool:
    """True when so many of the unfinished runs that were seen would be acted on that somebody should look first."""
    # guard: the brake
    return acting > HELD_LIMIT and is_most(acting, seen)


def is_most(count: int, of: int) -> bool:
    """True from `PERCENT` on."""
    return 100 * count >= MASS_PERCENT * of
