"""Notifications: each channel sends each alert until it has succeeded, owners hear of each action at least once."""

import json
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from django.core import mail
from freezegun import freeze_time

from reaper import tasks
from reaper.conf import settings as conf
from reaper.models import Alert, LedgerEntry
from reaper.monitoring import notifications
from tests.factories import HOUR, MINUTE, NOW, SECOND, running_job
from tests.reaper.monitoring.test_alerts import look

DAY = timedelta(days=1)
CANARY = "canary-9f3"

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("broker", "limits"),
    pytest.mark.filterwarnings("ignore:No directory at:UserWarning"),
]


def tell(at=NOW):
    """One run of the task that sends notifications."""
    with freeze_time(at):
        tasks.send_notifications()


# --- e-mail -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def to_ada(limits):
    limits(ALERT_EMAILS=["ada@shop.example"])


@pytest.mark.usefixtures("to_ada")
def test_alert_is_mailed_once_when_opened_and_once_when_resolved():
    job = running_job(31 * MINUTE)
    look()
    for _ in range(2):
        tell()
    (message,) = mail.outbox
    assert message.to == ["ada@shop.example"]
    assert message.subject == "[reaper] long_running crawl_job"
    assert message.body == "long_running crawl_job: 1 crawl_job runs, the oldest for 31 min"
    type(job).objects.update(status="completed")
    look(NOW + 5 * MINUTE)
    for _ in range(2):
        tell(NOW + 5 * MINUTE)
    assert mail.outbox[1].subject == "[reaper] long_running crawl_job resolved"
    assert mail.outbox[1].body == (
        "long_running crawl_job resolved after 5 min: 1 crawl_job runs, the oldest for 31 min"
    )
    assert len(mail.outbox) == 2


@pytest.mark.usefixtures("to_ada")
def test_thousand_alerts_are_mailed_as_one_digest():
    Alert.objects.bulk_create(
        Alert(name=f"alert{number}", kind="crawl_job", opened_at=NOW, seen_at=NOW, message="something")
        for number in range(1000)
    )
    tell()
    (message,) = mail.outbox
    assert message.subject == "[reaper] 1000 opened, 0 resolved"
    assert message.body.splitlines()[-1] == "and 980 more"
    assert len(message.body.splitlines()) == 21
    tell()
    assert len(mail.outbox) == 1


@pytest.mark.usefixtures("to_ada")
@pytest.mark.parametrize(("ago", "count"), [(DAY, 0), (DAY - SECOND, 1)])
def test_alert_that_could_not_be_sent_for_a_day_is_dropped(ago, count):
    Alert.objects.create(name="long_running", opened_at=NOW - ago, seen_at=NOW)
    tell()
    assert len(mail.outbox) == count


@pytest.mark.usefixtures("to_ada")
def test_resolving_of_an_old_alert_is_sent():
    Alert.objects.create(
        name="backlog", opened_at=NOW - 9 * DAY, seen_at=NOW, resolved_at=NOW, notified={"email": "opened"}
    )
    tell()
    assert mail.outbox[0].subject == "[reaper] backlog resolved"


@pytest.mark.usefixtures("to_ada")
def test_silenced_alert_is_sent_when_the_silence_ends():
    Alert.objects.create(name="backlog", opened_at=NOW, seen_at=NOW, silenced_until=NOW + HOUR)
    tell(NOW + HOUR - SECOND)
    assert mail.outbox == []
    tell(NOW + HOUR)
    assert len(mail.outbox) == 1


@pytest.mark.usefixtures("to_ada")
def test_line_break_in_a_name_adds_no_mail_header():
    Alert.objects.create(name="x\r\nBcc: eve@evil.example", opened_at=NOW, seen_at=NOW)
    tell()
    assert mail.outbox[0].message()["Bcc"] is None
    assert "\n" not in mail.outbox[0].subject


def test_without_a_channel_nothing_is_sent(caplog):
    running_job(31 * MINUTE)
    look()
    tell()
    assert mail.outbox == []
    assert Alert.objects.get().notified == {}


# --- webhook ----------------------------------------------------------------------------------------------------------


class Hook(BaseHTTPRequestHandler):
    """A chat server: keeps what it receives and gives the configured answer."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append((self.path, self.headers["Content-Type"], json.loads(body)))
        self.server.release.wait(30)
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def hook(limits):
    server = HTTPServer(("127.0.0.1", 0), Hook)
    server.heard, server.status, server.release = [], 200, threading.Event()
    server.release.set()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    limits(ALERT_WEBHOOK=f"http://127.0.0.1:{server.server_port}/hooks/{CANARY}")
    yield server
    server.release.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_webhook_gets_each_alert_once_as_json(hook):
    running_job(31 * MINUTE)
    look()
    for _ in range(2):
        tell()
    text = "[reaper] long_running crawl_job\nlong_running crawl_job: 1 crawl_job runs, the oldest for 31 min"
    assert hook.heard == [(f"/hooks/{CANARY}", "application/json", {"text": text})]


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_refusing_webhook_is_retried_and_its_address_not_logged(hook, status, caplog):
    running_job(31 * MINUTE)
    look()
    hook.status = status
    for _ in range(2):
        tell()
    assert len(hook.heard) == 2
    assert "sending alert notifications by webhook failed: HTTPError" in caplog.text
    assert CANARY not in caplog.text
    hook.status = 200
    for _ in range(2):
        tell()
    assert len(hook.heard) == 3


def test_slow_webhook_times_out_and_delays_no_email(hook, limits, monkeypatch):
    monkeypatch.setattr(notifications, "SEND_TIMEOUT_S", 0.2)
    limits(ALERT_EMAILS=["ada@shop.example"])
    running_job(31 * MINUTE)
    look()
    hook.release.clear()
    tell()
    assert len(mail.outbox) == 1
    assert Alert.objects.get().notified == {"email": "opened"}
    hook.release.set()
    tell()
    assert Alert.objects.get().notified == {"email": "opened", "webhook": "opened"}
    assert len(mail.outbox) == 1


def test_unreachable_webhook_is_logged_without_its_address(limits, caplog):
    limits(ALERT_WEBHOOK=f"http://127.0.0.1:1/{CANARY}")
    running_job(31 * MINUTE)
    look()
    tell()
    assert "sending alert notifications by webhook failed: URLError" in caplog.text
    assert CANARY not in caplog.text


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("ALERT_EMAILS", "ada@shop.example"), ("ALERT_EMAILS", ["nobody"]), ("ALERT_EMAILS", [None]),
        ("ALERT_WEBHOOK", f"ftp://{CANARY}"), ("ALERT_WEBHOOK", f"file:///{CANARY}"), ("ALERT_WEBHOOK", None),
        ("ALERT_WEBHOOK", f"https://x/ {CANARY}"), ("ALERT_WEBHOOK", "https://"),
    ],
)  # fmt: skip
def test_invalid_channel_setting_is_refused_without_repeating_it(limits, setting, value):
    limits(**{setting: value})
    (found,) = conf.problems()
    assert found.message.startswith(f'REAPER["{setting}"]')
    assert CANARY not in found.message + found.hint


# --- owners -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def owners(monkeypatch):
    """Return the entries the host's hook received, and the set of entry keys for which it raises."""
    heard, deaf = [], set()

    def tell_owner(self, entry):
        if entry.pk in deaf:
            raise OSError(f"boom {CANARY}")
        heard.append(entry)

    monkeypatch.setattr(type(conf.adapters()["crawl_job"]), "notify_owner", tell_owner)
    return heard, deaf


def done(pk, action="fail", ago=MINUTE, **fields):
    values = {"kind": "crawl_job", "phase": "running", "reason": "orphaned", "message": "Failed."}
    return LedgerEntry.objects.create(created_at=NOW - ago, run_id=pk, action=action, **{**values, **fields})


def test_owner_is_notified_once_of_what_was_done(owners):
    done("1")
    done("2", "requeue", actor="ada")
    for _ in range(2):
        tell()
    values = {"created_at": NOW - MINUTE, "reason": "orphaned", "message": "Failed."}
    assert [each._asdict() for each in owners[0]] == [
        {"pk": "1", "action": "fail", "actor": "", **values},
        {"pk": "2", "action": "requeue", "actor": "ada", **values},
    ]


def test_failing_owner_hook_is_retried_and_delays_no_other(owners):
    heard, deaf = owners
    deaf.add("1")
    for pk in ("1", "2"):
        done(pk)
    tell()
    assert [each.pk for each in heard] == ["2"]
    deaf.clear()
    for _ in range(2):
        tell()
    assert [each.pk for each in heard] == ["2", "1"]


@pytest.mark.parametrize(("ago", "count"), [(DAY, 0), (DAY - SECOND, 1)])
def test_owner_notification_older_than_a_day_is_dropped(owners, ago, count):
    done("1", ago=ago)
    tell()
    assert len(owners[0]) == count


@pytest.mark.parametrize("action", ["dispatch", "finalize", "revoke", "reopen"])
def test_other_actions_do_not_notify_the_owner(owners, action):
    done("1", action)
    tell()
    assert owners[0] == []


def test_owner_notifications_are_sent_in_bounded_batches(owners, monkeypatch):
    monkeypatch.setattr(notifications, "OWNER_BATCH", 2)
    for number in range(5):
        done(str(number))
    for seen in (2, 4, 5):
        tell()
        assert len(owners[0]) == seen


def test_kind_without_owner_hook_costs_no_query(django_assert_num_queries):
    done("1")
    with django_assert_num_queries(0):
        notifications.notify_owners(conf.adapters()["crawl_job"])
