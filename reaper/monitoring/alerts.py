"""What is worth a warning: opened once, resolved once, kept, and told by log, signal, e-mail and webhook.

A channel is told what it has not been told yet, by a task of its own that comes back until it has succeeded: a webhook
that is down or slow holds up no sweep, and a warning comes late or twice rather than never.
"""

import json
import logging
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from django.core.mail import get_connection, send_mail
from django.db import router
from django.db.models import Count, Q, QuerySet

from reaper.adapters import OwnerNotification, RunAdapter
from reaper.conf import clock
from reaper.conf import settings as conf
from reaper.controls import overrides as policies
from reaper.core.decisions import alert_for
from reaper.core.facts import Phase, RunFacts
from reaper.core.formatting import format_duration, one_line
from reaper.core.policy import Action
from reaper.evidence.collector import Fleet, queue_of
from reaper.models import Alert, LedgerEntry, WorkerHeartbeat
from reaper.reports.health import health_of
from reaper.signals import alerted
from reaper.workers import registry as workers

logger = logging.getLogger(__name__)

NO_CONSUMER, POISON, CLOCK_SKEW = "no_consumer", "poison", "clock_skew"
# A queue may be without a worker while one is deployed.
NO_CONSUMER_AFTER = timedelta(minutes=1)
# A clock that is further off than this is worth a warning.
MAX_CLOCK_SKEW = timedelta(seconds=5)
# For so long a run that was failed as poison is news.
POISON_WINDOW = timedelta(hours=1)
# It is over when it was not seen for so long: a sweep that fails now and then is one warning, not a hundred.
RESOLVE_AFTER = timedelta(minutes=2)
# What could not be told within a day is not told any more.
NOTIFY_WITHIN = timedelta(days=1)
# Seconds that a webhook or a mail server may take for an answer.
SEND_TIMEOUT_S = 5.0
# Lines of one message; the rest is a number.
MAX_LINES = 20
# What the owner of a run is told of, and of how many runs at a time.
OWNER_ACTIONS = (Action.FAIL, Action.CLOSE, Action.REQUEUE)
OWNER_BATCH = 500


class AlertCondition(NamedTuple):
    """Something that is worth a warning at a moment."""

    name: str
    phase: str
    message: str
    runs: Sequence[RunFacts] = ()


def detect_alerts(adapter: RunAdapter, now: datetime, crowd: Fleet) -> list[AlertCondition]:
    """Return what is worth a warning of one kind."""
    found = [
        *detect_late_runs(adapter, now),
        *detect_missing_consumer(adapter, now, crowd),
        *detect_poison(adapter, now),
    ]
    for each in health_of(adapter, now):
        found += [AlertCondition(name, each.phase, said) for name, said in each.conditions.items()]
    return found


def detect_late_runs(adapter: RunAdapter, now: datetime) -> Iterator[AlertCondition]:
    """Yield that runs are running or waiting for long."""
    policy, late = policies.effective_policy(adapter), dict[str, list[RunFacts]]()
    for phase in (Phase.RUNNING, Phase.QUEUED):
        for page in adapter.iter_unfinished(phase):
            for run in page:
                if name := alert_for(run, policy, now):
                    late.setdefault(name, []).append(run)
    for name, runs in late.items():
        oldest = max(age for run in runs if (age := run.age(now)) is not None)
        yield AlertCondition(
            name, "", f"{len(runs)} {adapter.kind} runs, the oldest for {format_duration(oldest)}", runs
        )


def detect_missing_consumer(adapter: RunAdapter, now: datetime, crowd: Fleet) -> Iterator[AlertCondition]:
    """Yield that runs wait and no live worker consumes their queue."""
    queue = queue_of(adapter)
    waiting = adapter.summarize(Phase.QUEUED)
    age = max((run.age(now) or timedelta(0) for run in waiting.oldest), default=timedelta(0))
    if queue and age > NO_CONSUMER_AFTER and not crowd.consumers(queue):
        says = f"{waiting.count} {adapter.kind} runs wait, and no live worker consumes the queue {queue}"
        yield AlertCondition(NO_CONSUMER, "", says)


def detect_poison(adapter: RunAdapter, now: datetime) -> Iterator[AlertCondition]:
    """Yield that runs were given up lately."""
    lately = LedgerEntry.objects.using(adapter.using).filter(
        kind=adapter.kind, created_at__gt=now - POISON_WINDOW, exhausted=True
    )
    if count := lately.aggregate(count=Count("pk"))["count"]:
        yield AlertCondition(
            POISON, "", f"{count} {adapter.kind} runs were given up within the last {format_duration(POISON_WINDOW)}"
        )


def detect_clock_skew(crowd: Fleet) -> Iterator[AlertCondition]:
    """Yield that the clocks of live workers are off."""
    wrong = {each.hostname: each.skew for each in crowd.live if abs(each.skew) > MAX_CLOCK_SKEW}
    if wrong:
        node, skew = max(wrong.items(), key=lambda each: abs(each[1]))
        way = "behind" if skew > timedelta(0) else "ahead"
        off_by = f"{one_line(node, 100)}'s by {format_duration(abs(skew))} ({way})"
        says = f"the clocks of {len(wrong)} workers are off, {off_by}"
        yield AlertCondition(CLOCK_SKEW, "", says)


def reconcile_alerts(kind: str, found: Iterable[AlertCondition], now: datetime, using: str, sender: type) -> None:
    """Open what is new, note what is still there, and resolve what has been gone for a while.

    Two at the same time: whoever opens or resolves a row first tells it, the other one does not.
    """
    rows = Alert.objects.using(using).filter(kind=kind, resolved_at=None)
    for each in found:
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
    """Tell the log and the receivers that a warning was opened or resolved."""
    logger.warning("%s: %s%s", row.subject, "resolved: " * (row.state == "resolved"), row.message)
    alerted.send_robust(
        sender=sender, alert=row, reason=row.name, state=row.state, runs=runs, message=row.message, now=now
    )


def evaluate_all(each_kind: Callable[[Callable[[RunAdapter], None]], object]) -> None:
    """Look at every kind, and at the workers. `each_kind` does something for every kind."""
    using = router.db_for_write(Alert)
    at = clock.now(router.db_for_write(WorkerHeartbeat))
    crowd = Fleet(workers.load_workers(router.db_for_write(WorkerHeartbeat), at), at)

    def of_kind(adapter: RunAdapter) -> None:
        now = clock.now(adapter.using)
        reconcile_alerts(adapter.kind, detect_alerts(adapter, now, crowd), now, using, type(adapter))

    each_kind(of_kind)
    reconcile_alerts("", detect_clock_skew(crowd), at, using, Alert)


# --- channels ---------------------------------------------------------------------------------------------------------


def pending_for_channel(channel: str, now: datetime) -> list[Alert]:
    """Return what a channel has not been told yet, and may be told now, oldest first."""
    lately = Q(resolved_at=None, opened_at__gt=now - NOTIFY_WITHIN) | Q(resolved_at__gt=now - NOTIFY_WITHIN)
    audible = Q(silenced_until=None) | Q(silenced_until__lte=now)
    rows: QuerySet[Alert] = Alert.objects.using(router.db_for_write(Alert)).filter(lately, audible).order_by("id")
    # What was opened and resolved before anybody was told is told once, as resolved.
    return [row for row in rows if row.notified.get(channel) != row.state]


def enabled_channels() -> Mapping[str, Callable[[str, str], None]]:
    """Return how each channel of the settings is told: a function of a subject and a text."""
    found: dict[str, Callable[[str, str], None]] = {}
    if conf.get_settings().alert_emails:
        found["email"] = send_email
    if conf.get_settings().alert_webhook:
        found["webhook"] = post_webhook
    return found


def notify_channel(channel: str) -> int:
    """Tell a channel all that it has not been told, in one message; return of how many. Raises what sending raises."""
    now = clock.now(router.db_for_write(Alert))
    rows = pending_for_channel(channel, now)
    if rows and (send := enabled_channels().get(channel)):
        send(message_subject(rows), message_text(rows, now))
        for row in rows:
            # Only what was said: it may have been resolved since.
            kept = Alert.objects.using(router.db_for_write(Alert)).filter(pk=row.pk)
            kept.update(notified={**row.notified, channel: row.state})
    return len(rows)


def message_subject(rows: Sequence[Alert]) -> str:
    """Return the message's subject."""
    opened = sum(row.state == "opened" for row in rows)
    if len(rows) == 1:
        return f"[reaper] {rows[0].subject}{'' if opened else ' is over'}"
    return f"[reaper] {opened} new, {len(rows) - opened} over"


def message_text(rows: Sequence[Alert], now: datetime) -> str:
    """Return the message: one line each, what is new first."""
    ordered = sorted(rows, key=lambda row: row.state == "resolved")
    lines = [
        f"{row.subject}: {row.message}"
        if row.state == "opened"
        else f"{row.subject} is over after {format_duration(now - row.opened_at)}: {row.message}"
        for row in ordered[:MAX_LINES]
    ]
    return "\n".join([*lines, *([f"and {len(rows) - MAX_LINES} more"] if len(rows) > MAX_LINES else [])])


def send_email(subject: str, text: str) -> None:
    """Send an e-mail by Django's own way, within bounds: by itself it waits for a mail server for ever."""
    with get_connection(timeout=SEND_TIMEOUT_S) as connection:
        send_mail(one_line(subject, 200), text, None, list(conf.get_settings().alert_emails), connection=connection)


def post_webhook(subject: str, text: str) -> None:
    """Post to the webhook, in the form that Slack and Mattermost take."""
    body = json.dumps({"text": f"{subject}\n{text}"}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(conf.get_settings().alert_webhook, body, headers)  # noqa: S310 (the settings take http only)
    with urllib.request.urlopen(request, timeout=SEND_TIMEOUT_S) as answer:  # noqa: S310
        answer.read(1000)


# --- owners -----------------------------------------------------------------------------------------------------------


def notify_owners(adapter: RunAdapter) -> int:
    """Have the host tell the owners of runs what was done with them, oldest first; return how many it took.

    What it does not take is tried again the next time. One that fails does not keep the others back.
    """
    if type(adapter).notify_owner is RunAdapter.notify_owner:
        return 0
    now, rows = clock.now(adapter.using), LedgerEntry.objects.using(adapter.using)
    done = rows.filter(
        kind=adapter.kind, created_at__gt=now - NOTIFY_WITHIN, owner_notified_at=None, action__in=OWNER_ACTIONS
    )
    told = []
    for row in done.order_by("created_at", "id")[:OWNER_BATCH]:
        try:
            adapter.notify_owner(
                OwnerNotification(row.run_id, row.created_at, row.action, row.reason, row.message, row.actor)
            )
        except Exception:  # the host's code, which may raise anything
            logger.exception("the owner of %s:%s could not be told", adapter.kind, one_line(row.run_id))
        else:
            told.append(row.pk)
    rows.filter(pk__in=told, owner_notified_at=None).update(owner_notified_at=now)
    return len(told)
