"""Detect conditions that need attention. Each opens one alert, which resolves after 2 minutes without it and is kept.

Input: the runs, the workers and the health of the sweeps of each kind. Output: `Alert` rows, a line in the log and the
signal `alerted` when one opens or resolves. `notifications.py` sends them to people.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db import router
from django.db.models import Count

from reaper.adapters import RunAdapter
from reaper.broker.queues import resolve_queue
from reaper.conf import clock
from reaper.controls.overrides import effective_policy
from reaper.core.decisions import alert_for
from reaper.core.facts import Phase, RunFacts
from reaper.core.formatting import format_duration, one_line
from reaper.evidence.fleet import Fleet, load_fleet
from reaper.models import Alert, LedgerEntry
from reaper.reports.health import health_of
from reaper.signals import alerted

# Documented in docs/ALERTS.md, therefore written out.
logger = logging.getLogger("reaper.alerts")

NO_CONSUMER = "no_consumer"
POISON = "poison"
CLOCK_SKEW = "clock_skew"
# A queue may be without a worker for as long as a deployment takes.
NO_CONSUMER_AFTER = timedelta(minutes=1)
# Workers synchronised by NTP are off by milliseconds; starts and progress are corrected by the measured offset.
MAX_CLOCK_SKEW = timedelta(seconds=5)
# How long runs that used up their requeues keep the alert open.
POISON_WINDOW = timedelta(hours=1)
# A condition that comes and goes, such as a sweep that fails now and then, is one alert and not a hundred.
RESOLVE_AFTER = timedelta(minutes=2)


class AlertCondition(NamedTuple):
    """A condition that needs attention at this moment."""

    name: str
    """The alert's name, as in docs/ALERTS.md."""
    phase: str
    """The scope of the sweeps that it concerns; '' for none."""
    message: str
    runs: Sequence[RunFacts] = ()
    """The runs that it is about."""


def evaluate_all(adapters: Mapping[str, RunAdapter]) -> None:
    """Evaluate the conditions of every kind and of the workers; open and resolve alerts.

    A kind that fails is logged; it stops no other, and its alerts stay as they are. Raises `django.db.Error` when the
    workers cannot be read.
    """
    using = router.db_for_write(Alert)
    fleet = load_fleet()
    for kind, adapter in adapters.items():
        try:
            now = clock.now(adapter.using)
            reconcile_alerts(kind, detect_alerts(adapter, now, fleet), now, using, type(adapter))
        except Exception:  # the host's code, which may raise anything
            logger.exception("the alerts of %s could not be evaluated", kind)
    reconcile_alerts("", detect_clock_skew(fleet), fleet.now, using, Alert)


def detect_alerts(adapter: RunAdapter, now: datetime, fleet: Fleet) -> list[AlertCondition]:
    """Return the conditions of one kind."""
    return [
        *detect_late_runs(adapter, now),
        *detect_missing_consumer(adapter, now, fleet),
        *detect_poison(adapter, now),
        *(
            AlertCondition(name, health.phase, message)
            for health in health_of(adapter, now)
            for name, message in health.conditions.items()
        ),
    ]


def detect_late_runs(adapter: RunAdapter, now: datetime) -> Iterator[AlertCondition]:
    """Yield `long_running` and `backlog`: runs that are running or waiting for longer than the policy allows."""
    policy = effective_policy(adapter)
    late: dict[str, list[RunFacts]] = {}
    for phase in (Phase.RUNNING, Phase.QUEUED):
        for page in adapter.iter_unfinished(phase):
            for run in page:
                if name := alert_for(run, policy, now):
                    late.setdefault(name, []).append(run)
    for name, runs in late.items():
        oldest = max(age for run in runs if (age := run.age(now)) is not None)
        message = f"{len(runs)} {adapter.kind} runs, the oldest for {format_duration(oldest)}"
        yield AlertCondition(name, "", message, runs)


def detect_missing_consumer(adapter: RunAdapter, now: datetime, fleet: Fleet) -> Iterator[AlertCondition]:
    """Yield `no_consumer`: runs are waiting, and no live worker consumes their queue."""
    queue = resolve_queue(adapter)
    waiting = adapter.summarize(Phase.QUEUED)
    age = max((run.age(now) or timedelta(0) for run in waiting.oldest), default=timedelta(0))
    if queue and age > NO_CONSUMER_AFTER and not fleet.consumers(queue):
        message = f"{waiting.count} {adapter.kind} runs are waiting, and no live worker consumes queue {queue}"
        yield AlertCondition(NO_CONSUMER, "", message)


def detect_poison(adapter: RunAdapter, now: datetime) -> Iterator[AlertCondition]:
    """Yield `poison`: runs were failed because they had used up their requeues."""
    entries = (
        LedgerEntry.objects.using(adapter.using)
        .applied()
        .filter(kind=adapter.kind, created_at__gt=now - POISON_WINDOW, exhausted=True)
    )
    if count := entries.aggregate(count=Count("pk"))["count"]:
        within = format_duration(POISON_WINDOW)
        yield AlertCondition(POISON, "", f"{count} {adapter.kind} runs used up their requeues within the last {within}")


def detect_clock_skew(fleet: Fleet) -> Iterator[AlertCondition]:
    """Yield `clock_skew`: the clocks of live workers are off the database's."""
    skews = {each.hostname: each.skew for each in fleet.live if abs(each.skew) > MAX_CLOCK_SKEW}
    if skews:
        hostname, skew = max(skews.items(), key=lambda each: abs(each[1]))
        direction = "behind" if skew > timedelta(0) else "ahead"
        worst = f"{one_line(hostname, 100)}'s by {format_duration(abs(skew))} ({direction})"
        yield AlertCondition(CLOCK_SKEW, "", f"the clocks of {len(skews)} workers are off, {worst}")


def reconcile_alerts(kind: str, conditions: Iterable[AlertCondition], now: datetime, using: str, sender: type) -> None:
    """Open an alert for each new condition, refresh those that last, and resolve those whose condition is gone.

    Safe to run concurrently: only the call that opens or resolves a row announces it.
    """
    rows = Alert.objects.using(using).filter(kind=kind, resolved_at=None)
    for each in conditions:
        key = {"name": each.name, "kind": kind, "phase": each.phase}
        values = {"opened_at": now, "seen_at": now, "message": one_line(each.message)}
        row, is_new = Alert.objects.using(using).get_or_create(**key, resolved_at=None, defaults=values)
        if is_new:
            announce(row, sender, now, each.runs)
        else:
            rows.filter(pk=row.pk).update(seen_at=now, message=values["message"])
    for row in rows.filter(seen_at__lt=now - RESOLVE_AFTER):
        if rows.filter(pk=row.pk, seen_at=row.seen_at).update(resolved_at=now):
            row.resolved_at = now
            announce(row, sender, now, ())


def announce(row: Alert, sender: type, now: datetime, runs: Sequence[RunFacts]) -> None:
    """Log that an alert was opened or resolved, and send the signal. A receiver that raises stops nothing."""
    logger.warning("%s: %s%s", row.subject, "resolved: " if row.state == "resolved" else "", row.message)
    alerted.send_robust(
        sender=sender, alert=row, reason=row.name, state=row.state, runs=runs, message=row.message, now=now
    )
