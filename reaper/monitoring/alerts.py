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

from reaper.adapters import RunAdapter, Told
from reaper.conf import clock
from reaper.conf import settings as conf
from reaper.controls import overrides as policies
from reaper.core.decisions import Action, alert
from reaper.core.explain import duration, one_line
from reaper.core.facts import Phase, RunFacts
from reaper.evidence.collector import Crowd, queue_of
from reaper.models import Alert, Reaping, WorkerReport
from reaper.monitoring.health import health_of
from reaper.signals import alerted
from reaper.workers import registry as workers

logger = logging.getLogger(__name__)

NO_CONSUMER, POISON, CLOCK_SKEW = "no_consumer", "poison", "clock_skew"
# A queue may be without a worker while one is deployed.
UNATTENDED = timedelta(minutes=1)
# A clock that is further off than this is worth a warning.
OFFSET = timedelta(seconds=5)
# For so long a run that was failed as poison is news.
NEWS = timedelta(hours=1)
# It is over when it was not seen for so long: a sweep that fails now and then is one warning, not a hundred.
GONE = timedelta(minutes=2)
# What could not be told within a day is not told any more.
STALE = timedelta(days=1)
# Seconds that a webhook or a mail server may take for an answer.
PATIENCE = 5.0
# Lines of one message; the rest is a number.
MOST = 20
# What the owner of a run is told of, and of how many runs at a time.
OF_OWNERS = (Action.FAIL, Action.CLOSE, Action.REQUEUE)
OWNERS = 500


class Found(NamedTuple):
    """Something that is worth a warning at a moment."""

    name: str
    phase: str
    says: str
    runs: Sequence[RunFacts] = ()


def look(adapter: RunAdapter, now: datetime, crowd: Crowd) -> list[Found]:
    """Return what is worth a warning of one kind."""
    found = [*of_runs(adapter, now), *of_queue(adapter, now, crowd), *of_poison(adapter, now)]
    for each in health_of(adapter, now):
        found += [Found(name, each.phase, said) for name, said in each.conditions.items()]
    return found


def of_runs(adapter: RunAdapter, now: datetime) -> Iterator[Found]:
    """Yield that runs are running or waiting for long."""
    policy, late = policies.effective(adapter), dict[str, list[RunFacts]]()
    for phase in (Phase.RUNNING, Phase.QUEUED):
        for page in adapter.unfinished(phase):
            for run in page:
                if name := alert(run, policy, now):
                    late.setdefault(name, []).append(run)
    for name, runs in late.items():
        oldest = max(age for run in runs if (age := run.age(now)) is not None)
        yield Found(name, "", f"{len(runs)} {adapter.kind} runs, the oldest for {duration(oldest)}", runs)


def of_queue(adapter: RunAdapter, now: datetime, crowd: Crowd) -> Iterator[Found]:
    """Yield that runs wait and no live worker consumes their queue."""
    queue = queue_of(adapter)
    waiting = adapter.load(Phase.QUEUED)
    age = max((run.age(now) or timedelta(0) for run in waiting.oldest), default=timedelta(0))
    if queue and age > UNATTENDED and not crowd.consumers(queue):
        says = f"{waiting.number} {adapter.kind} runs wait, and no live worker consumes the queue {queue}"
        yield Found(NO_CONSUMER, "", says)


def of_poison(adapter: RunAdapter, now: datetime) -> Iterator[Found]:
    """Yield that runs were given up lately."""
    lately = Reaping.objects.using(adapter.using).filter(kind=adapter.kind, at__gt=now - NEWS, exhausted=True)
    if count := lately.aggregate(count=Count("pk"))["count"]:
        yield Found(POISON, "", f"{count} {adapter.kind} runs were given up within the last {duration(NEWS)}")


def of_clocks(crowd: Crowd) -> Iterator[Found]:
    """Yield that the clocks of live workers are off."""
    wrong = {each.hostname: each.skew for each in crowd.live if abs(each.skew) > OFFSET}
    if wrong:
        node, skew = max(wrong.items(), key=lambda each: abs(each[1]))
        way = "behind" if skew > timedelta(0) else "ahead"
        says = f"the clocks of {len(wrong)} workers are off, {one_line(node, 100)}'s by {duration(abs(skew))} ({way})"
        yield Found(CLOCK_SKEW, "", says)


def update(kind: str, found: Iterable[Found], now: datetime, using: str, sender: type) -> None:
    """Open what is new, note what is still there, and resolve what has been gone for a while.

    Two at the same time: whoever opens or resolves a row first tells it, the other one does not.
    """
    rows = Alert.objects.using(using).filter(kind=kind, resolved_at=None)
    for each in found:
        key = {"name": each.name, "kind": kind, "phase": each.phase}
        values = {"opened_at": now, "seen_at": now, "says": one_line(each.says)}
        row, is_new = Alert.objects.using(using).get_or_create(**key, resolved_at=None, defaults=values)
        if is_new:
            tell(row, sender, now, each.runs)
        else:
            rows.filter(pk=row.pk).update(seen_at=now, says=values["says"])
    for row in rows.filter(seen_at__lt=now - GONE):
        if rows.filter(pk=row.pk, seen_at=row.seen_at).update(resolved_at=now):
            row.resolved_at = now
            tell(row, sender, now, ())


def tell(row: Alert, sender: type, now: datetime, runs: Sequence[RunFacts]) -> None:
    """Tell the log and the receivers that a warning was opened or resolved."""
    logger.warning("%s: %s%s", row.subject, "resolved: " * (row.state == "resolved"), row.says)
    alerted.send_robust(sender=sender, alert=row, reason=row.name, state=row.state, runs=runs, says=row.says, now=now)


def raise_all(each_kind: Callable[[Callable[[RunAdapter], None]], object]) -> None:
    """Look at every kind, and at the workers. `each_kind` does something for every kind."""
    using = router.db_for_write(Alert)
    at = clock.now(router.db_for_write(WorkerReport))
    crowd = Crowd(workers.census(router.db_for_write(WorkerReport), at), at)

    def of_kind(adapter: RunAdapter) -> None:
        now = clock.now(adapter.using)
        update(adapter.kind, look(adapter, now, crowd), now, using, type(adapter))

    each_kind(of_kind)
    update("", of_clocks(crowd), at, using, Alert)


# --- channels ---------------------------------------------------------------------------------------------------------


def untold(channel: str, now: datetime) -> list[Alert]:
    """Return what a channel has not been told yet, and may be told now, oldest first."""
    lately = Q(resolved_at=None, opened_at__gt=now - STALE) | Q(resolved_at__gt=now - STALE)
    audible = Q(silenced_until=None) | Q(silenced_until__lte=now)
    rows: QuerySet[Alert] = Alert.objects.using(router.db_for_write(Alert)).filter(lately, audible).order_by("id")
    # What was opened and resolved before anybody was told is told once, as resolved.
    return [row for row in rows if row.told.get(channel) != row.state]


def channels() -> Mapping[str, Callable[[str, str], None]]:
    """Return how each channel of the settings is told: a function of a subject and a text."""
    found: dict[str, Callable[[str, str], None]] = {}
    if conf.alert_emails():
        found["email"] = mail
    if conf.alert_webhook():
        found["webhook"] = post
    return found


def tell_channel(channel: str) -> int:
    """Tell a channel all that it has not been told, in one message; return of how many. Raises what sending raises."""
    now = clock.now(router.db_for_write(Alert))
    rows = untold(channel, now)
    if rows and (send := channels().get(channel)):
        send(subject(rows), text(rows, now))
        for row in rows:
            # Only what was said: it may have been resolved since.
            kept = Alert.objects.using(router.db_for_write(Alert)).filter(pk=row.pk)
            kept.update(told={**row.told, channel: row.state})
    return len(rows)


def subject(rows: Sequence[Alert]) -> str:
    """Return the message's subject."""
    opened = sum(row.state == "opened" for row in rows)
    if len(rows) == 1:
        return f"[reaper] {rows[0].subject}{'' if opened else ' is over'}"
    return f"[reaper] {opened} new, {len(rows) - opened} over"


def text(rows: Sequence[Alert], now: datetime) -> str:
    """Return the message: one line each, what is new first."""
    ordered = sorted(rows, key=lambda row: row.state == "resolved")
    lines = [
        f"{row.subject}: {row.says}"
        if row.state == "opened"
        else f"{row.subject} is over after {duration(now - row.opened_at)}: {row.says}"
        for row in ordered[:MOST]
    ]
    return "\n".join([*lines, *([f"and {len(rows) - MOST} more"] if len(rows) > MOST else [])])


def mail(subject: str, text: str) -> None:
    """Send an e-mail by Django's own way, within bounds: by itself it waits for a mail server for ever."""
    with get_connection(timeout=PATIENCE) as connection:
        send_mail(one_line(subject, 200), text, None, list(conf.alert_emails()), connection=connection)


def post(subject: str, text: str) -> None:
    """Post to the webhook, in the form that Slack and Mattermost take."""
    body = json.dumps({"text": f"{subject}\n{text}"}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(conf.alert_webhook(), body, headers)  # noqa: S310 (the settings take http only)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
        answer.read(1000)


# --- owners -----------------------------------------------------------------------------------------------------------


def tell_owners(adapter: RunAdapter) -> int:
    """Have the host tell the owners of runs what was done with them, oldest first; return how many it took.

    What it does not take is tried again the next time. One that fails does not keep the others back.
    """
    if type(adapter).tell_owner is RunAdapter.tell_owner:
        return 0
    now, rows = clock.now(adapter.using), Reaping.objects.using(adapter.using)
    done = rows.filter(kind=adapter.kind, at__gt=now - STALE, owner_told_at=None, action__in=OF_OWNERS)
    told = []
    for row in done.order_by("at", "id")[:OWNERS]:
        try:
            adapter.tell_owner(Told(row.run_id, row.at, row.action, row.reason, row.message, row.actor))
        except Exception:  # the host's code, which may raise anything
            logger.exception("the owner of %s:%s could not be told", adapter.kind, one_line(row.run_id))
        else:
            told.append(row.pk)
    rows.filter(pk__in=told, owner_told_at=None).update(owner_told_at=now)
    return len(told)
