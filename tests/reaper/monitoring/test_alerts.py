"""Alerts: opened once, resolved once, kept; told by each channel until it was, and never by one for the other."""

import json
import re
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from django.core import mail
from django.db import connection
from django.urls import reverse
from freezegun import freeze_time

from reaper import tasks
from reaper.conf import settings as conf
from reaper.controls import overrides as policies
from reaper.models import Alert, LedgerEntry, Sweep
from reaper.monitoring import alerts
from reaper.signals import alerted
from tests.reaper.admin.pages import user_of
from tests.worlds import (
    COMMITTED,
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    at_once,
    child,
    fresh,
    parent,
    queued_job,
    report,
    running_job,
    swept,
    witness,
)

DAY = timedelta(days=1)
CANARY = "canary-9f3"

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("broker", "limits"),
    pytest.mark.filterwarnings("ignore:No directory at:UserWarning"),
]


@pytest.fixture
def heard():
    """The signals, as (state, name, kind, phase)."""
    found = []

    def note(alert, state, reason, message, now, runs, **_):
        assert (reason, message) == (alert.name, alert.message)
        found.append((state, alert.name, alert.kind, alert.phase))

    alerted.connect(note)
    yield found
    alerted.disconnect(note)


def look(at=NOW, well=True):
    """One look at everything; the sweeps themselves are well."""
    if well:
        swept(at)
        witness(now=at)
    with freeze_time(at):
        tasks.raise_alerts()


def tell(at=NOW):
    with freeze_time(at):
        tasks.send_notifications()


def opened():
    return {(row.name, row.kind, row.phase) for row in Alert.objects.filter(resolved_at=None)}


# --- opened and resolved once -------------------------------------------------------------------------------------


def test_what_is_worth_a_warning_is_opened_once_and_noted_as_long_as_it_lasts(heard, caplog):
    running_job(31 * MINUTE)
    for minute in range(3):
        look(NOW + minute * MINUTE)
    assert heard == [("opened", "long_running", "crawl_job", "")]
    row = Alert.objects.get()
    assert (row.opened_at, row.seen_at, row.resolved_at) == (NOW, NOW + 2 * MINUTE, None)
    assert row.message == "1 crawl_job runs, the oldest for 33 min"
    said = [line for line in caplog.messages if line.startswith("long_running")]
    assert said == ["long_running crawl_job: 1 crawl_job runs, the oldest for 31 min"]


def test_it_is_resolved_once_when_it_was_not_seen_for_a_while(heard):
    job = running_job(31 * MINUTE)
    look()
    type(job).objects.update(status="completed")
    look(NOW + 2 * MINUTE)
    assert opened() == {("long_running", "crawl_job", "")}
    for seconds in (1, 60):
        look(NOW + 2 * MINUTE + seconds * SECOND)
    assert heard[1:] == [("resolved", "long_running", "crawl_job", "")]
    assert Alert.objects.get().resolved_at == NOW + 2 * MINUTE + SECOND


def test_what_comes_back_within_a_while_is_the_same_and_later_another(heard):
    job = running_job(31 * MINUTE)
    look()
    type(job).objects.update(status="completed")
    look(NOW + MINUTE)
    type(job).objects.update(status="running")
    look(NOW + 2 * MINUTE)
    type(job).objects.update(status="completed")
    look(NOW + 5 * MINUTE)
    type(job).objects.update(status="running")
    look(NOW + 6 * MINUTE)
    assert [state for state, *_ in heard] == ["opened", "resolved", "opened"]
    assert Alert.objects.count() == 2


@COMMITTED
@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")
def test_two_that_look_at_the_same_moment_open_and_resolve_it_once(heard):
    found = [alerts.AlertCondition("long_running", "", "one run")]

    def many(at, what):
        at_once(*[lambda: alerts.reconcile_alerts("crawl_job", what, at, "default", Alert)] * 4)

    many(NOW, found)
    assert heard == [("opened", "long_running", "crawl_job", "")]
    many(NOW + HOUR, [])
    assert heard[1:] == [("resolved", "long_running", "crawl_job", "")]


def test_a_receiver_of_alerts_that_raises_stops_nothing():
    def broken(**_):
        raise OSError("boom")

    running_job(31 * MINUTE)
    queued_job(16 * MINUTE)
    alerted.connect(broken)
    try:
        look()
    finally:
        alerted.disconnect(broken)
    assert {name for name, *_ in opened()} == {"long_running", "backlog"}


# --- what is worth one --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "name", "says"),
    [
        (lambda: running_job(30 * MINUTE + SECOND), "long_running", "1 crawl_job runs, the oldest for 30 min 1 s"),
        (lambda: queued_job(15 * MINUTE + SECOND), "backlog", "1 crawl_job runs, the oldest for 15 min 1 s"),
    ],
)
def test_runs_that_are_late_are(make, name, says):
    make()
    look()
    assert [(row.name, row.message) for row in Alert.objects.all()] == [(name, says)]


@pytest.mark.parametrize("make", [lambda: running_job(30 * MINUTE), lambda: queued_job(15 * MINUTE)])
def test_exactly_at_the_limit_they_are_not(make):
    make()
    look()
    assert opened() == set()


def test_a_run_without_a_start_that_tells_is_not_taken_for_a_late_one():
    running_job(started_at=None, queued_at=None, created_at=NOW)
    look()
    assert opened() == set()


def test_a_kinds_own_threshold_counts(limits):
    limits(KINDS={"crawl_job": {"ALERT_AFTER": 60}})
    running_job(MINUTE + SECOND)
    child(parent(), "running", started_at=NOW - MINUTE - SECOND)
    look()
    assert opened() == {("long_running", "crawl_job", "")}


def test_an_edited_threshold_counts():
    policies.set_overrides(conf.adapters()["crawl_job"], "ada", NOW, {"alert_after": MINUTE})
    running_job(MINUTE + SECOND)
    look()
    assert opened() == {("long_running", "crawl_job", "")}


def test_a_sweep_that_told_of_an_error_is():
    swept(NOW - SECOND)
    witness()
    failing = {"kind": "crawl_job", "phase": "queued", "errors": ["the broker did not answer"]}
    Sweep.objects.create(started_at=NOW, finished_at=NOW, **failing)
    look(well=False)
    assert [(row.subject, row.message) for row in Alert.objects.all()] == [
        ("sweep_failing crawl_job queued", "the broker did not answer")
    ]


@pytest.mark.parametrize(("ago", "there"), [(MINUTE, False), (MINUTE + SECOND, True)])
def test_runs_that_wait_while_no_live_worker_consumes_their_queue_are(ago, there):
    queued_job(ago)
    queued_job(SECOND)
    report("celery@mail/1", queues=["mail"])
    report("celery@gone/1", silent=HOUR)
    swept()
    look(well=False)
    says = [row.message for row in Alert.objects.filter(name="no_consumer")]
    assert says == (["2 crawl_job runs wait, and no live worker consumes the queue crawl"] if there else [])


def test_a_worker_of_the_queue_is_enough():
    queued_job(5 * MINUTE)
    look()
    assert opened() == set()


@pytest.mark.parametrize(("ago", "there"), [(HOUR, False), (HOUR - SECOND, True)])
def test_runs_that_were_given_up_lately_are(ago, there):
    for number in range(2):
        LedgerEntry.objects.create(
            created_at=NOW - ago, kind="crawl_job", run_id=str(number), phase="running", action="fail", reason="orphaned",
            exhausted=True,
        )  # fmt: skip
    look()
    says = [row.message for row in Alert.objects.filter(name="poison")]
    assert says == (["2 crawl_job runs were given up within the last 1 h"] if there else [])


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (5, None),
        (-5, None),
        (5.1, "the clocks of 1 workers are off, celery@w1's by 5 s (ahead)"),
        (-288, "the clocks of 1 workers are off, celery@w1's by 4 min 48 s (behind)"),
    ],
)
def test_clocks_that_are_off_are(seconds, says):
    report("celery@w1/1", listed_at=NOW + seconds * SECOND)
    look()
    assert [row.message for row in Alert.objects.filter(name="clock_skew")] == ([says] if says else [])


def test_sweeps_that_are_not_as_they_should_be_are_by_phase():
    look(well=False)
    assert ("sweep_overdue", "crawl_job", "running") in opened()
    assert ("sweep_overdue", "source_result", "parents") in opened()


def test_every_alert_has_its_line_in_the_docs():
    from reaper.reports.health import Condition
    from tests.processes import ROOT

    page = (ROOT / "docs" / "ALERTS.md").read_text()
    named = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert named == {"long_running", "backlog", "no_consumer", "poison", "clock_skew", *Condition}


def test_a_kind_that_cannot_be_looked_at_hides_no_other_and_resolves_nothing(monkeypatch):
    running_job(31 * MINUTE)
    look()
    broken = type(conf.adapters()["crawl_job"])
    monkeypatch.setattr(broken, "iter_unfinished", lambda self, phase: 1 / 0)
    report("celery@w1/1", now=NOW + HOUR, listed_at=NOW + HOUR + MINUTE)
    look(NOW + HOUR)
    assert opened() == {("long_running", "crawl_job", ""), ("clock_skew", "", "")}


@freeze_time(NOW)
def test_old_ones_are_pruned_and_open_ones_are_kept():
    values = {"opened_at": NOW - 400 * DAY, "seen_at": NOW - 400 * DAY, "kind": "crawl_job"}
    Alert.objects.create(name="old", resolved_at=NOW - 90 * DAY - SECOND, **values)
    kept = [
        Alert.objects.create(name="within_grace", resolved_at=NOW - 90 * DAY, **values),
        Alert.objects.create(name="open", **values),
    ]
    tasks.prune_history()
    assert list(Alert.objects.order_by("id")) == kept


# --- e-mail -------------------------------------------------------------------------------------------------------


@pytest.fixture
def to_ada(limits):
    limits(ALERT_EMAILS=["ada@shop.example"])


@pytest.mark.usefixtures("to_ada")
def test_it_is_mailed_once_and_once_that_it_is_over():
    job = running_job(31 * MINUTE)
    look()
    for _ in range(2):
        tell()
    (message,) = mail.outbox
    assert (message.to, message.subject) == (["ada@shop.example"], "[reaper] long_running crawl_job")
    assert message.body == "long_running crawl_job: 1 crawl_job runs, the oldest for 31 min"
    type(job).objects.update(status="completed")
    look(NOW + 5 * MINUTE)
    for _ in range(2):
        tell(NOW + 5 * MINUTE)
    assert mail.outbox[1].subject == "[reaper] long_running crawl_job is over"
    assert mail.outbox[1].body == (
        "long_running crawl_job is over after 5 min: 1 crawl_job runs, the oldest for 31 min"
    )
    assert len(mail.outbox) == 2


@pytest.mark.usefixtures("to_ada")
def test_of_a_thousand_there_is_one_digest():
    Alert.objects.bulk_create(
        Alert(name=f"alert{number}", kind="crawl_job", opened_at=NOW, seen_at=NOW, message="something")
        for number in range(1000)
    )
    tell()
    (message,) = mail.outbox
    assert message.subject == "[reaper] 1000 new, 0 over"
    assert message.body.splitlines()[-1] == "and 980 more"
    assert len(message.body.splitlines()) == 21
    tell()
    assert len(mail.outbox) == 1


@pytest.mark.usefixtures("to_ada")
@pytest.mark.parametrize(("ago", "count"), [(DAY, 0), (DAY - SECOND, 1)])
def test_what_could_not_be_told_for_a_day_is_not_told_any_more(ago, count):
    Alert.objects.create(name="long_running", opened_at=NOW - ago, seen_at=NOW)
    tell()
    assert len(mail.outbox) == count


@pytest.mark.usefixtures("to_ada")
def test_that_an_old_one_is_over_is_told():
    Alert.objects.create(
        name="backlog", opened_at=NOW - 9 * DAY, seen_at=NOW, resolved_at=NOW, notified={"email": "opened"}
    )
    tell()
    assert mail.outbox[0].subject == "[reaper] backlog is over"


@pytest.mark.usefixtures("to_ada")
def test_what_is_silenced_is_told_afterwards():
    Alert.objects.create(name="backlog", opened_at=NOW, seen_at=NOW, silenced_until=NOW + HOUR)
    tell(NOW + HOUR - SECOND)
    assert mail.outbox == []
    tell(NOW + HOUR)
    assert len(mail.outbox) == 1


@pytest.mark.usefixtures("to_ada")
def test_what_came_from_elsewhere_makes_no_second_header():
    Alert.objects.create(name="x\r\nBcc: eve@evil.example", opened_at=NOW, seen_at=NOW)
    tell()
    assert mail.outbox[0].message()["Bcc"] is None
    assert "\n" not in mail.outbox[0].subject


def test_without_a_channel_nothing_is_told_and_nothing_fails(caplog):
    running_job(31 * MINUTE)
    look()
    tell()
    assert (mail.outbox, Alert.objects.get().notified) == ([], {})


# --- webhook ------------------------------------------------------------------------------------------------------


class Hook(BaseHTTPRequestHandler):
    """A chat server: keeps what it is sent, and answers as it is told."""

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


def test_the_webhook_gets_plain_json_once(hook):
    running_job(31 * MINUTE)
    look()
    for _ in range(2):
        tell()
    text = "[reaper] long_running crawl_job\nlong_running crawl_job: 1 crawl_job runs, the oldest for 31 min"
    assert hook.heard == [(f"/hooks/{CANARY}", "application/json", {"text": text})]


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_a_webhook_that_refuses_is_asked_again_until_it_takes_it_and_its_address_is_not_told(hook, status, caplog):
    running_job(31 * MINUTE)
    look()
    hook.status = status
    for _ in range(2):
        tell()
    assert len(hook.heard) == 2
    assert "the alerts could not be told by webhook: HTTPError" in caplog.text
    assert CANARY not in caplog.text
    hook.status = 200
    for _ in range(2):
        tell()
    assert len(hook.heard) == 3


def test_a_webhook_that_is_slow_is_given_up_in_time_and_keeps_no_mail_back(hook, limits, monkeypatch):
    monkeypatch.setattr(alerts, "SEND_TIMEOUT_S", 0.2)
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


def test_a_webhook_that_is_not_there_is_told_of_in_the_log(limits, caplog):
    limits(ALERT_WEBHOOK=f"http://127.0.0.1:1/{CANARY}")
    running_job(31 * MINUTE)
    look()
    tell()
    assert "the alerts could not be told by webhook: URLError" in caplog.text
    assert CANARY not in caplog.text


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("ALERT_EMAILS", "ada@shop.example"), ("ALERT_EMAILS", ["nobody"]), ("ALERT_EMAILS", [None]),
        ("ALERT_WEBHOOK", f"ftp://{CANARY}"), ("ALERT_WEBHOOK", f"file:///{CANARY}"), ("ALERT_WEBHOOK", None),
        ("ALERT_WEBHOOK", f"https://x/ {CANARY}"), ("ALERT_WEBHOOK", "https://"),
    ],
)  # fmt: skip
def test_what_is_no_channel_is_refused(limits, setting, value):
    limits(**{setting: value})
    (found,) = conf.problems()
    assert found.message.startswith(f'REAPER["{setting}"]')
    assert CANARY not in found.message + found.hint


# --- in the admin -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["looks", "reaps", "superuser"])
def test_they_are_acknowledged_and_silenced_by_those_who_may_reap(client, role):
    from django.contrib.auth.models import Permission

    row = Alert.objects.create(name="backlog", kind="crawl_job", opened_at=NOW, seen_at=NOW)
    user = user_of(role)
    user.user_permissions.add(Permission.objects.get(codename="view_alert"))
    client.force_login(user)
    for action in ("acknowledge", "silence"):
        with freeze_time(NOW):
            client.post(reverse("admin:reaper_alert_changelist"), {"action": action, "_selected_action": [row.pk]})
    may = role != "looks"
    assert (fresh(row).acknowledged_by, fresh(row).silenced_until) == ((role, NOW + DAY) if may else ("", None))


def test_whoever_acknowledged_it_first_is_kept(admin_client):
    row = Alert.objects.create(name="backlog", opened_at=NOW, seen_at=NOW, acknowledged_by="bob")
    admin_client.post(reverse("admin:reaper_alert_changelist"), {"action": "acknowledge", "_selected_action": [row.pk]})
    assert fresh(row).acknowledged_by == "bob"


def test_open_ones_are_on_the_overview(admin_client):
    Alert.objects.create(
        name="backlog", kind="crawl_job", opened_at=NOW - HOUR, seen_at=NOW, message="<b>many</b> wait"
    )
    with freeze_time(NOW):
        page = admin_client.get("/admin/reaper/").content.decode()
    assert "Open alerts" in page
    assert "&lt;b&gt;many&lt;/b&gt; wait" in page


# --- owners -------------------------------------------------------------------------------------------------------


@pytest.fixture
def owners(monkeypatch):
    """The host's hook, as a list of what it was told; a run in `deaf` cannot be told."""
    heard, deaf = [], set()

    def tell_owner(self, told):
        if told.pk in deaf:
            raise OSError(f"boom {CANARY}")
        heard.append(told)

    monkeypatch.setattr(type(conf.adapters()["crawl_job"]), "notify_owner", tell_owner)
    return heard, deaf


def done(pk, action="fail", ago=MINUTE, **fields):
    values = {"kind": "crawl_job", "phase": "running", "reason": "orphaned", "message": "Failed."}
    return LedgerEntry.objects.create(created_at=NOW - ago, run_id=pk, action=action, **{**values, **fields})


def test_an_owner_is_told_once_what_was_done_with_a_run(owners):
    done("1")
    done("2", "requeue", actor="ada")
    for _ in range(2):
        tell()
    said = (NOW - MINUTE, "fail", "orphaned", "Failed.", "")
    assert [tuple(each) for each in owners[0]] == [("1", *said), ("2", NOW - MINUTE, "requeue", *said[2:4], "ada")]


def test_an_owner_who_cannot_be_told_is_told_later_and_keeps_no_other_back(owners):
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
def test_what_no_owner_could_be_told_for_a_day_is_given_up(owners, ago, count):
    done("1", ago=ago)
    tell()
    assert len(owners[0]) == count


@pytest.mark.parametrize("action", ["dispatch", "finalize", "revoke", "reopen"])
def test_of_what_did_not_end_or_requeue_a_run_no_owner_is_told(owners, action):
    done("1", action)
    tell()
    assert owners[0] == []


def test_of_many_a_bounded_number_is_told_at_a_time(owners, monkeypatch):
    monkeypatch.setattr(alerts, "OWNER_BATCH", 2)
    for number in range(5):
        done(str(number))
    for seen in (2, 4, 5):
        tell()
        assert len(owners[0]) == seen


def test_a_kind_without_a_hook_is_not_even_asked(django_assert_num_queries):
    done("1")
    with django_assert_num_queries(0):
        alerts.notify_owners(conf.adapters()["crawl_job"])
