"""Send alerts by e-mail and webhook, and notify the owners of runs of what was done with them: at least once each.

Each channel remembers what it has sent: one that is down is retried for a day and holds up neither a sweep nor the
other channel. A notification comes late or twice rather than never.
"""

import json
import logging
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from django.core.mail import get_connection, send_mail
from django.db import router
from django.db.models import Q

from reaper.adapters import OwnerNotification, RunAdapter
from reaper.conf import clock
from reaper.conf.settings import get_settings
from reaper.core.formatting import format_duration, one_line
from reaper.core.policy import Action
from reaper.models import Alert, LedgerEntry

logger = logging.getLogger("reaper.notifications")

# What could not be sent within a day is no longer news.
NOTIFY_WITHIN = timedelta(days=1)
# Seconds that a webhook or a mail server may take for an answer: the task comes every 30 s, with two channels.
SEND_TIMEOUT_S = 5.0
# Lines of one message; the rest is a number.
MAX_LINES = 20
# The actions that a run's owner is notified of, and how many entries are sent at a time.
OWNER_ACTIONS = (Action.FAIL, Action.CLOSE, Action.REQUEUE)
OWNER_BATCH = 500

# Sends a subject and a text; may raise anything.
Send = Callable[[str, str], None]


def notify_channels() -> None:
    """Send each enabled channel what it has not sent yet. A channel that fails is logged and retried next time."""
    for channel, send in enabled_channels().items():
        try:
            notify_channel(channel, send)
        except Exception as error:  # what mail servers and webhooks raise varies
            # Without the error's own words: an address that holds a secret may be among them.
            logger.warning("sending alert notifications by %s failed: %s", channel, type(error).__name__)


def enabled_channels() -> Mapping[str, Send]:
    """Return how to send by each channel of the settings."""
    settings = get_settings()
    channels: dict[str, Send] = {}
    if settings.alert_emails:
        channels["email"] = send_email
    if settings.alert_webhook:
        channels["webhook"] = post_webhook
    return channels


def notify_channel(channel: str, send: Send) -> None:
    """Send all that a channel has not sent, in one message. Raises what sending raises; nothing is marked then."""
    now = clock.now(router.db_for_write(Alert))
    rows = pending_for_channel(channel, now)
    if not rows:
        return
    send(message_subject(rows), message_text(rows, now))
    for row in rows:
        # The state that was sent: the alert may have been resolved since.
        sent = Alert.objects.using(router.db_for_write(Alert)).filter(pk=row.pk)
        sent.update(notified={**row.notified, channel: row.state})


def pending_for_channel(channel: str, now: datetime) -> list[Alert]:
    """Return the alerts that a channel has not sent yet and may send now, oldest first."""
    is_recent = Q(resolved_at=None, opened_at__gt=now - NOTIFY_WITHIN) | Q(resolved_at__gt=now - NOTIFY_WITHIN)
    is_audible = Q(silenced_until=None) | Q(silenced_until__lte=now)
    rows = Alert.objects.using(router.db_for_write(Alert)).filter(is_recent, is_audible).order_by("id")
    # What was opened and resolved before anything was sent is sent once, as resolved.
    return [row for row in rows if row.notified.get(channel) != row.state]


def message_subject(rows: Sequence[Alert]) -> str:
    """Return the message's subject."""
    opened = sum(row.state == "opened" for row in rows)
    if len(rows) == 1:
        return f"[reaper] {rows[0].subject}{'' if opened else ' resolved'}"
    return f"[reaper] {opened} opened, {len(rows) - opened} resolved"


def message_text(rows: Sequence[Alert], now: datetime) -> str:
    """Return the message: one line per alert, those that opened first."""
    ordered = sorted(rows, key=lambda row: row.state == "resolved")
    lines = [
        f"{row.subject}: {row.message}"
        if row.state == "opened"
        else f"{row.subject} resolved after {format_duration(now - row.opened_at)}: {row.message}"
        for row in ordered[:MAX_LINES]
    ]
    return "\n".join([*lines, *([f"and {len(rows) - MAX_LINES} more"] if len(rows) > MAX_LINES else [])])


def send_email(subject: str, text: str) -> None:
    """Send an e-mail by Django's mail settings, with a timeout: by default it would wait forever."""
    with get_connection(timeout=SEND_TIMEOUT_S) as connection:
        send_mail(one_line(subject, 200), text, None, list(get_settings().alert_emails), connection=connection)


def post_webhook(subject: str, text: str) -> None:
    """Post to the webhook, in the format of Slack and Mattermost."""
    body = json.dumps({"text": f"{subject}\n{text}"}).encode()
    headers = {"Content-Type": "application/json"}
    url = get_settings().alert_webhook
    request = urllib.request.Request(url, body, headers)  # noqa: S310 (the settings accept http and https only)
    with urllib.request.urlopen(request, timeout=SEND_TIMEOUT_S) as answer:  # noqa: S310
        answer.read(1000)


def notify_owners(adapter: RunAdapter) -> int:
    """Have the adapter notify the owners of runs, oldest action first; return how many notifications succeeded.

    An entry whose notification raises is tried again next time; it does not keep the others back.
    """
    if type(adapter).notify_owner is RunAdapter.notify_owner:
        return 0
    now = clock.now(adapter.using)
    entries = (
        LedgerEntry.objects.using(adapter.using)
        .applied()
        .filter(kind=adapter.kind, created_at__gt=now - NOTIFY_WITHIN, owner_notified_at=None, action__in=OWNER_ACTIONS)
    )
    notified = []
    for row in entries.order_by("created_at", "id")[:OWNER_BATCH]:
        try:
            facts = (row.action, row.reason, row.message, row.actor)
            adapter.notify_owner(OwnerNotification(row.run_id, row.created_at, *facts))
        except Exception:  # the host's code, which may raise anything
            logger.exception("notifying the owner of %s:%s failed", adapter.kind, one_line(row.run_id))
        else:
            notified.append(row.pk)
    entries.filter(pk__in=notified).update(owner_notified_at=now)
    return len(notified)
