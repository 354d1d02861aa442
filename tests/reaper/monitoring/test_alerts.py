"""Alerts: which conditions open one; opened once, resolved once and kept."""

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.urls import reverse
from freezegun import freeze_time

from reaper import tasks
from reaper.conf import settings as conf
from reaper.controls.overrides import set_overrides
from reaper.models import Alert, LedgerEntry, Sweep
from reaper.monitoring import alerts
from reaper.signals import alerted
from tests.factories import (
    COMMITTED,
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    child,
    fresh,
    parent,
    queued_job,
    report,
    run_concurrently,
    running_job,
    swept,
    witness,
)
from tests.reaper.admin.pages import user_of

DAY = timedelta(days=1)

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
        assert reason == alert.name
        assert message == alert.message
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


def opened():
    return {(row.name, row.kind, row.phase) for row in Alert.objects.filter(resolved_at=None)}


# --- opened and resolved once -----------------------------------------------------------------------------------------


def test_lasting_condition_opens_one_alert_and_refreshes_it(heard, caplog):
    running_job(31 * MINUTE)
    for minute in range(3):
        look(NOW + minute * MINUTE)
    assert heard == [("opened", "long_running", "crawl_job", "")]
    row = Alert.objects.get()
    assert row.opened_at == NOW
    assert row.seen_at == NOW + 2 * MINUTE
    assert row.resolved_at is None
    assert row.message == "1 crawl_job runs, the oldest for 33 min"
    said = [line for line in caplog.messages if line.startswith("long_running")]
    assert said == ["long_running crawl_job: 1 crawl_job runs, the oldest for 31 min"]


def test_alert_resolves_once_after_two_minutes_without_its_condition(heard):
    job = running_job(31 * MINUTE)
    look()
    type(job).objects.update(status="completed")
    look(NOW + 2 * MINUTE)
    assert opened() == {("long_running", "crawl_job", "")}
    for seconds in (1, 60):
        look(NOW + 2 * MINUTE + seconds * SECOND)
    assert heard[1:] == [("resolved", "long_running", "crawl_job", "")]
    assert Alert.objects.get().resolved_at == NOW + 2 * MINUTE + SECOND


def test_condition_that_returns_after_resolving_opens_another_alert(heard):
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
def test_concurrent_evaluations_open_and_resolve_an_alert_once(heard):
    found = [alerts.AlertCondition("long_running", "", "one run")]

    def many(at, what):
        run_concurrently(*[lambda: alerts.reconcile_alerts("crawl_job", what, at, "default", Alert)] * 4)

    many(NOW, found)
    assert heard == [("opened", "long_running", "crawl_job", "")]
    many(NOW + HOUR, [])
    assert heard[1:] == [("resolved", "long_running", "crawl_job", "")]


def test_receiver_that_raises_stops_no_other_alert():
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


# --- conditions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "name", "says"),
    [
        (lambda: running_job(30 * MINUTE + SECOND), "long_running", "1 crawl_job runs, the oldest for 30 min 1 s"),
        (lambda: queued_job(15 * MINUTE + SECOND), "backlog", "1 crawl_job runs, the oldest for 15 min 1 s"),
    ],
)
def test_run_beyond_its_threshold_opens_alert(make, name, says):
    make()
    look()
    assert [(row.name, row.message) for row in Alert.objects.all()] == [(name, says)]


@pytest.mark.parametrize("make", [lambda: running_job(30 * MINUTE), lambda: queued_job(15 * MINUTE)])
def test_run_exactly_at_its_threshold_opens_no_alert(make):
    make()
    look()
    assert opened() == set()


def test_run_without_timestamps_opens_no_alert():
    running_job(started_at=None, queued_at=None, created_at=NOW)
    look()
    assert opened() == set()


def test_threshold_of_the_kind_is_used(limits):
    limits(KINDS={"crawl_job": {"ALERT_AFTER": 60}})
    running_job(MINUTE + SECOND)
    child(parent(), "running", started_at=NOW - MINUTE - SECOND)
    look()
    assert opened() == {("long_running", "crawl_job", "")}


def test_overridden_threshold_is_used():
    set_overrides(conf.adapters()["crawl_job"], "ada", NOW, {"alert_after": MINUTE})
    running_job(MINUTE + SECOND)
    look()
    assert opened() == {("long_running", "crawl_job", "")}


def test_sweep_with_an_error_opens_sweep_failing():
    swept(NOW - SECOND)
    witness()
    failing = {
        "kind": "crawl_job",
        "phase": "queued",
        "errors": [{"code": "broker_unavailable", "message": "the broker did not answer"}],
    }
    Sweep.objects.create(started_at=NOW, finished_at=NOW, **failing)
    look(well=False)
    assert [(row.subject, row.message) for row in Alert.objects.all()] == [
        ("sweep_failing crawl_job queued", "the broker did not answer")
    ]


@pytest.mark.parametrize(("ago", "there"), [(MINUTE, False), (MINUTE + SECOND, True)])
def test_waiting_runs_without_a_live_consumer_open_no_consumer(ago, there):
    queued_job(ago)
    queued_job(SECOND)
    report("celery@mail/1", queues=["mail"])
    report("celery@gone/1", silent=HOUR)
    swept()
    look(well=False)
    says = [row.message for row in Alert.objects.filter(name="no_consumer")]
    assert says == (["2 crawl_job runs are waiting, and no live worker consumes queue crawl"] if there else [])


def test_one_live_worker_of_the_queue_opens_no_alert():
    queued_job(5 * MINUTE)
    look()
    assert opened() == set()


@pytest.mark.parametrize(("ago", "there"), [(HOUR, False), (HOUR - SECOND, True)])
def test_runs_exhausted_within_an_hour_open_poison(ago, there):
    for number in range(2):
        values = {"kind": "crawl_job", "phase": "running", "action": "fail", "reason": "orphaned"}
        LedgerEntry.objects.create(created_at=NOW - ago, run_id=str(number), exhausted=True, **values)
    look()
    says = [row.message for row in Alert.objects.filter(name="poison")]
    assert says == (["2 crawl_job runs used up their requeues within the last 1 h"] if there else [])


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (5, None),
        (-5, None),
        (5.1, "the clocks of 1 workers are off, celery@w1's by 5 s (ahead)"),
        (-288, "the clocks of 1 workers are off, celery@w1's by 4 min 48 s (behind)"),
    ],
)
def test_clock_skew_above_5s_opens_alert(seconds, says):
    report("celery@w1/1", listed_at=NOW + seconds * SECOND)
    look()
    assert [row.message for row in Alert.objects.filter(name="clock_skew")] == ([says] if says else [])


def test_overdue_sweeps_open_one_alert_per_scope():
    look(well=False)
    assert ("sweep_overdue", "crawl_job", "running") in opened()
    assert ("sweep_overdue", "source_result", "parents") in opened()


def test_every_alert_has_its_line_in_the_docs():
    from reaper.reports.health import Condition
    from tests.processes import ROOT

    page = (ROOT / "docs" / "ALERTS.md").read_text()
    named = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert named == {"long_running", "backlog", "no_consumer", "poison", "clock_skew", *Condition}


def test_failing_kind_stops_no_other_and_resolves_nothing(monkeypatch):
    running_job(31 * MINUTE)
    look()
    broken = type(conf.adapters()["crawl_job"])
    monkeypatch.setattr(broken, "iter_unfinished", lambda self, phase: 1 / 0)
    report("celery@w1/1", now=NOW + HOUR, listed_at=NOW + HOUR + MINUTE)
    look(NOW + HOUR)
    assert opened() == {("long_running", "crawl_job", ""), ("clock_skew", "", "")}


@freeze_time(NOW)
def test_prune_deletes_old_resolved_alerts_and_keeps_open_ones():
    values = {"opened_at": NOW - 400 * DAY, "seen_at": NOW - 400 * DAY, "kind": "crawl_job"}
    Alert.objects.create(name="old", resolved_at=NOW - 90 * DAY - SECOND, **values)
    kept = [
        Alert.objects.create(name="within_grace", resolved_at=NOW - 90 * DAY, **values),
        Alert.objects.create(name="open", **values),
    ]
    tasks.prune_history()
    assert list(Alert.objects.order_by("id")) == kept


# --- in the admin -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["looks", "reaps", "superuser"])
def test_only_users_with_reap_permission_acknowledge_and_silence(client, role):
    from django.contrib.auth.models import Permission

    row = Alert.objects.create(name="backlog", kind="crawl_job", opened_at=NOW, seen_at=NOW)
    user = user_of(role)
    user.user_permissions.add(Permission.objects.get(codename="view_alert"))
    client.force_login(user)
    for action in ("acknowledge", "silence"):
        with freeze_time(NOW):
            client.post(reverse("admin:reaper_alert_changelist"), {"action": action, "_selected_action": [row.pk]})
    may = role != "looks"
    assert fresh(row).acknowledged_by == (role if may else "")
    assert fresh(row).silenced_until == (NOW + DAY if may else None)


def test_second_acknowledgement_keeps_the_first_user(admin_client):
    row = Alert.objects.create(name="backlog", opened_at=NOW, seen_at=NOW, acknowledged_by="bob")
    admin_client.post(reverse("admin:reaper_alert_changelist"), {"action": "acknowledge", "_selected_action": [row.pk]})
    assert fresh(row).acknowledged_by == "bob"


def test_open_alerts_are_on_the_dashboard_with_escaped_messages(admin_client):
    Alert.objects.create(
        name="backlog", kind="crawl_job", opened_at=NOW - HOUR, seen_at=NOW, message="<b>many</b> wait"
    )
    with freeze_time(NOW):
        page = admin_client.get("/admin/reaper/").content.decode()
    assert "Open alerts" in page
    assert "&lt;b&gt;many&lt;/b&gt; wait" in page
