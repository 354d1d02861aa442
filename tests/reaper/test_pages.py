"""The buttons: what each does, who may press it, and that nothing happens to a run that is not as it was seen."""

import re

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils.html import escape
from django_celery_beat.models import PeriodicTask
from freezegun import freeze_time

from apps.sources import claims
from apps.sources.models import CrawlJob
from reaper.admin import run_views as pages
from reaper.broker.connection import Broker
from reaper.conf import settings as conf
from reaper.controls import modes as switches
from reaper.controls import overrides as policies
from reaper.core.policy import Mode
from reaper.exceptions import BrokerUnavailable
from reaper.models import Exemption, KindControl, LedgerEntry, PolicyOverride
from reaper.reports import diagnosis as reports
from reaper.sweeps import sweep as sweeps
from tests.reaper.test_admin import user_of
from tests.servers import killed
from tests.worlds import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    fresh,
    held_job,
    parent,
    queued_job,
    running_job,
)  # fmt: skip

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("broker", "limits"),
    pytest.mark.filterwarnings("ignore:No directory at:UserWarning"),
]
NOBODY = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def ada(client, django_user_model):
    """A client of somebody who may do everything."""
    client.force_login(django_user_model.objects.create_superuser("ada"))
    return client


def kind_of(run):
    return "crawl_job" if isinstance(run, CrawlJob) else "source_result"


def seen(run):
    return reports.state_token(conf.adapters()[kind_of(run)].get(str(run.pk)))


def press(client, name, at=NOW, **data):
    """Press a button; return the status, or what the next page says."""
    with freeze_time(at):
        response = client.post(reverse(f"admin:reaper_{name}"), data, follow=True)
    if response.status_code != 200:
        return response.status_code
    return " ".join(str(each) for each in response.context["messages"])


def act(client, run, what, **more):
    data = {"kind": kind_of(run), "pk": str(run.pk), "act": what, "seen": seen(run), **more}
    return press(client, "act", **data)


def text(response):
    assert response.status_code == 200
    return " ".join(re.sub(r"<[^>]+>", " ", response.content.decode()).split())


# --- kinds and schedules ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "state"),
    [
        ("dry_run", (Mode.DRY_RUN, None, False)),
        ("off", (Mode.OFF, None, False)),
        ("act", (Mode.ACT, None, False)),
        ("pause", (Mode.OFF, NOW + HOUR, False)),
        ("release", (Mode.ACT, None, True)),
        ("unpause", (Mode.ACT, None, False)),
    ],
)
def test_a_kind_is_switched_in_the_users_name(ada, order, state):
    assert "This counts from now on." in press(ada, "order", kind="crawl_job", order=order)
    assert switches.state_of(conf.adapters()["crawl_job"], NOW)[:3] == state
    assert KindControl.objects.get().actor == "ada"


def test_what_was_ordered_is_ended(ada):
    for order in ("dry_run", "pause", "release", "unpause", "unrelease", "settings"):
        press(ada, "order", kind="crawl_job", order=order)
    assert switches.state_of(conf.adapters()["crawl_job"], NOW)[:4] == (Mode.ACT, None, False, "ada")


@pytest.mark.parametrize("data", [{"kind": "crawl_job", "order": "fly"}, {"kind": "nobody", "order": "off"}, {}])
def test_what_is_no_order_is_not_found(ada, data):
    assert press(ada, "order", **data) == 404
    assert not KindControl.objects.exists()


def beat_row():
    return PeriodicTask.objects.get(task="reaper.tasks.sweep_running")


@pytest.fixture
def schedules(db):
    """The schedules as migrate makes them: a test that commits has emptied the tables."""
    from reaper.schedules import create

    create("default")


@pytest.mark.usefixtures("schedules")
def test_a_schedule_is_switched_off_and_on_and_it_is_in_its_history(ada):
    row = beat_row()
    for enabled in (False, False, True):
        said = "switched on" if enabled else "switched off"
        assert f"is {said}" in press(ada, "schedule", schedule=row.pk, enabled="01"[enabled])
        assert beat_row().enabled is enabled
    history = LogEntry.objects.filter(object_id=str(row.pk)).order_by("pk")
    assert [(each.user.username, each.change_message) for each in history] == [
        ("ada", "switched off in the reaper's overview"), ("ada", "switched on in the reaper's overview"),
    ]  # fmt: skip


@pytest.mark.usefixtures("schedules")
def test_what_beat_has_noted_meanwhile_stays(ada):
    row = beat_row()
    PeriodicTask.objects.filter(pk=row.pk).update(total_run_count=7, last_run_at=NOW)
    press(ada, "schedule", schedule=row.pk, enabled="0")
    assert (beat_row().total_run_count, beat_row().last_run_at) == (7, NOW)


@pytest.mark.parametrize("schedule", ["", "x", "-1", "9" * 30, "0"])
def test_what_is_no_schedule_of_the_reapers_is_not_found(ada, schedule):
    assert press(ada, "schedule", schedule=schedule, enabled="0") == 404


@pytest.mark.usefixtures("schedules")
def test_a_schedule_of_somebody_else_is_not_found(ada):
    other = PeriodicTask.objects.create(name="backup", task="backup", interval=beat_row().interval)
    assert press(ada, "schedule", schedule=other.pk, enabled="0") == 404
    assert PeriodicTask.objects.get(name="backup").enabled


# --- one run ------------------------------------------------------------------------------------------------------


def run_page(client, run, at=NOW):
    with freeze_time(at):
        return client.get(reverse("admin:reaper_run", args=[kind_of(run), run.pk]))


def test_a_run_is_explained_with_what_would_be_done_and_what_happened(ada):
    job = running_job(2 * HOUR)
    page = text(run_page(ada, job))
    assert (
        f"It has been running for 2 h, claimed by celery@w1/abc, last progress none, its task is {job.task_id}." in page
    )
    assert "It would be failed: it was running longer than its run timeout (rule timed_out)." in page
    assert "Limits: run_timeout 1 h" in page
    assert "2026-03-01 10:00:00 Claimed by celery@w1/abc." in page
    assert f"2026-03-01 10:00:00 Dispatched as task {job.task_id}." in page
    assert "Requeue Fail Revoke its task Leave it alone" in page


def test_the_timeline_tells_what_was_done_and_which_late_write_was_refused(ada):
    job = queued_job(3 * HOUR)
    with freeze_time(NOW - 2 * HOUR):
        hold = claims.claim(CrawlJob, job.pk, job.task_id, "celery@w1/abc")
    act(ada, job, "fail")
    with pytest.raises(claims.ClaimLost), freeze_time(NOW + SECOND):
        hold.complete({"pages": 1})
    page = text(run_page(ada, job, NOW + MINUTE))
    assert f"2026-03-01 12:00:01 Refused a late complete of task {job.task_id} on celery@w1/abc." in page
    assert "2026-03-01 12:00:00 Failed by ada (rule manual). It had been running for 2 h." in page
    assert "It has ended: its status is failed" in page
    assert "Requeue Fail" not in page


def test_a_run_is_failed_in_the_users_name_and_its_task_is_revoked(ada, broker):
    job = running_job(2 * HOUR)
    assert f"crawl_job:{job.pk} was failed." in act(ada, job, "fail")
    assert (fresh(job).status, fresh(job).error_code) == ("failed", "manual")
    row = LedgerEntry.objects.get()
    assert (row.actor, row.action, row.reason) == ("ada", "fail", "manual")
    assert job.task_id in str(broker.revokes())


def test_a_host_that_has_every_request_be_a_transaction_is_no_hindrance(ada, broker, monkeypatch):
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    job = running_job(2 * HOUR)
    assert "was requeued." in act(ada, job, "requeue")
    assert fresh(job).task_id in broker.ids()
    assert f"crawl_job:{job.pk}" in text(run_page(ada, job))
    assert "1 of 1 crawl_job runs: failed." in confirm(ada, ask(ada, "reaper_fail", job))


def test_a_run_is_requeued_and_published(ada, broker):
    job = running_job(2 * HOUR)
    assert "was requeued." in act(ada, job, "requeue")
    assert fresh(job).status == "pending"
    assert fresh(job).task_id != job.task_id
    assert fresh(job).task_id in broker.ids()


def test_a_task_is_revoked_where_it_is_executed_and_the_run_is_left_as_it_is(ada, broker):
    job = held_job(MINUTE)
    before = CrawlJob.objects.filter(pk=job.pk).values().get()
    assert f"The task of crawl_job:{job.pk} was revoked." in act(ada, job, "revoke")
    assert CrawlJob.objects.filter(pk=job.pk).values().get() == before
    row = LedgerEntry.objects.get()
    assert (row.actor, row.action, row.task_id, row.terminate, row.owes_revoke) == (
        "ada",
        "revoke",
        job.task_id,
        True,
        False,
    )
    assert killed([job.task_id], "celery@w1") in broker.revokes()


def test_a_revoke_that_the_broker_does_not_take_is_sent_by_the_next_sweep(ada, broker, monkeypatch):
    job = held_job(MINUTE)

    def refuse(*arguments, **more):
        raise BrokerUnavailable("the broker did not take a message: nobody is there")

    with monkeypatch.context() as patched:
        patched.setattr(Broker, "revoke", refuse)
        assert "It is in the ledger, and sent by the next sweep." in act(ada, job, "revoke")
    assert LedgerEntry.objects.get().owes_revoke
    with freeze_time(NOW + SECOND):
        sweeps.sweep(conf.adapters()["crawl_job"], sweeps.Phase.RUNNING)
    assert not LedgerEntry.objects.get(action="revoke").owes_revoke
    assert job.task_id in str(broker.revokes())


def test_a_run_is_left_alone_and_looked_after_again(ada):
    job = running_job(2 * HOUR)
    assert "is left alone" in act(ada, job, "exempt")
    assert (Exemption.objects.get().run_id, Exemption.objects.get().actor) == (str(job.pk), "ada")
    assert "It is left alone: it is exempt from recovery" in text(run_page(ada, job))
    assert "is looked after again" in act(ada, job, "readmit")
    assert not Exemption.objects.exists()


def test_a_parent_is_finalized_from_the_page_of_its_child(ada):
    job = parent("completed", "completed")
    first = job.source_results.first()
    assert "The parent was given its outcome." in act(ada, first, "finalize")
    assert fresh(job).status == "completed"
    assert "The parent was not finalized" in act(ada, first, "finalize")


def test_a_parent_with_an_unfinished_child_is_not_finalized(ada):
    job = parent("completed", "running")
    assert "The parent was not finalized" in act(ada, job.source_results.first(), "finalize")
    assert fresh(job).status == "running"
    assert "The parent was not finalized" in act(ada, running_job(), "finalize")


def failed_job():
    """A job that the reaper failed while its task, which nobody heard of, was working on it; and the task's hold."""
    job = queued_job(3 * HOUR)
    with freeze_time(NOW - 2 * HOUR):
        hold = claims.claim(CrawlJob, job.pk, job.task_id, "celery@w1/abc")
    with freeze_time(NOW):
        sweeps.sweep(conf.adapters()["crawl_job"], sweeps.Phase.RUNNING)
    assert fresh(job).status == "failed"
    return job, hold


def test_a_run_that_was_fine_is_reopened_and_its_task_ends_it(ada):
    job, hold = failed_job()
    before = CrawlJob.objects.values_list("started_at", "task_id", "worker").get(pk=job.pk)
    assert "It was fine: reopen" in text(run_page(ada, job))
    assert f"The run crawl_job:{job.pk} was reopened." in act(ada, job, "reopen")
    after = fresh(job)
    assert (after.status, after.completed_at, after.error_code) == ("running", None, "")
    assert (after.started_at, after.task_id, after.worker) == before
    assert [(row.action, row.actor) for row in LedgerEntry.objects.order_by("id")] == [("fail", ""), ("reopen", "ada")]
    with freeze_time(NOW + SECOND):
        hold.complete({"pages": 1})
    assert fresh(job).status == "completed"
    assert "It was fine: reopen" not in text(run_page(ada, job))
    assert "Reopened by ada." in text(run_page(ada, job))


def test_a_run_that_was_not_fine_is_ended_once_more(ada):
    job, _ = failed_job()
    act(ada, job, "reopen")
    with freeze_time(NOW + SECOND):
        sweeps.sweep(conf.adapters()["crawl_job"], sweeps.Phase.RUNNING)
    assert (fresh(job).status, fresh(job).error_code) == ("failed", "timed_out")


@pytest.mark.parametrize("changes", [{"status": "completed"}, {"task_id": "another"}, {"status": "pending"}])
def test_a_run_that_is_not_as_the_reaper_left_it_is_not_reopened(ada, changes):
    job, _ = failed_job()
    CrawlJob.objects.filter(pk=job.pk).update(**changes)
    before = CrawlJob.objects.filter(pk=job.pk).values().get()
    assert "cannot be reopened" in act(ada, job, "reopen")
    assert CrawlJob.objects.filter(pk=job.pk).values().get() == before
    assert LedgerEntry.objects.count() == 1


def test_a_run_that_the_reaper_did_not_end_is_not_reopened(ada):
    job = running_job(status="failed")
    assert "cannot be reopened" in act(ada, job, "reopen")
    assert (fresh(job).status, LedgerEntry.objects.count()) == ("failed", 0)


def test_a_kind_may_forbid_it(ada, monkeypatch):
    job, _ = failed_job()
    monkeypatch.setattr(type(conf.adapters()["crawl_job"]), "supports_reopen", False)
    assert "It was fine" not in text(run_page(ada, job))
    assert "cannot be reopened" in act(ada, job, "reopen")
    assert fresh(job).status == "failed"


def test_a_child_of_a_parent_that_has_ended_is_not_reopened(ada):
    job = parent("running", "completed")
    stuck = job.source_results.get(status="running")
    act(ada, stuck, "fail")
    assert fresh(job).finalized_at
    assert "cannot be reopened" in act(ada, stuck, "reopen")
    assert fresh(stuck).status == "failed"


def test_what_is_reopened_twice_is_reopened_once(ada):
    job, _ = failed_job()
    act(ada, job, "reopen")
    assert "cannot be reopened" in act(ada, job, "reopen")
    assert LedgerEntry.objects.filter(action="reopen").count() == 1


@pytest.mark.parametrize("what", ["fail", "requeue", "revoke"])
@pytest.mark.parametrize(
    "changes", [{"status": "pending", "started_at": None}, {"task_id": "another"}, {"started_at": NOW}]
)
def test_a_run_that_changed_since_it_was_seen_is_left_as_it_is(ada, broker, what, changes):
    job = running_job(2 * HOUR)
    before = seen(job)
    CrawlJob.objects.filter(pk=job.pk).update(**changes)
    said = act(ada, job, what, seen=before)
    assert said == f"The run crawl_job:{job.pk} changed since you looked. Nothing was done; look again."
    assert {name: getattr(fresh(job), name) for name in changes} == changes
    assert (LedgerEntry.objects.count(), broker.ids()) == (0, [])


def test_progress_is_no_change_that_stops_a_person(ada):
    job = running_job(2 * HOUR)
    before = seen(job)
    CrawlJob.objects.filter(pk=job.pk).update(heartbeat_at=NOW)
    assert "was failed" in act(ada, job, "fail", seen=before)


@pytest.mark.parametrize("what", ["fail", "requeue", "revoke"])
def test_a_button_that_is_pressed_twice_does_it_once(ada, what):
    job = running_job(2 * HOUR)
    before = seen(job)
    act(ada, job, what, seen=before)
    said = act(ada, job, what, seen=before)
    if what != "revoke":
        assert "changed since you looked" in said
        assert LedgerEntry.objects.count() == 1


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "paused"])
@pytest.mark.parametrize("what", ["fail", "requeue", "revoke"])
def test_a_run_that_has_ended_is_left_as_it_is(ada, status, what):
    job = running_job(2 * HOUR, status=status)
    assert "Nothing was done" in act(ada, job, what)
    assert (fresh(job).status, LedgerEntry.objects.count()) == (status, 0)


@pytest.mark.parametrize(
    ("kind", "pk", "what"),
    [
        ("crawl_job", NOBODY, "fail"),
        ("crawl_job", "<b>", "fail"),
        ("nobody", NOBODY, "fail"),
        ("crawl_job", "{run}", "fly"),
    ],
)
def test_what_is_not_there_is_not_found(ada, kind, pk, what):
    job = running_job()
    data = {"kind": kind, "pk": pk.format(run=job.pk), "act": what, "seen": seen(job)}
    assert press(ada, "act", **data) == 404


def test_a_run_that_is_not_there_has_no_page(ada):
    for kind, pk in (("crawl_job", NOBODY), ("crawl_job", "x/y"), ("nobody", NOBODY)):
        assert ada.get(reverse("admin:reaper_run", args=[kind, pk])).status_code == 404


def test_the_page_of_a_run_leads_to_the_reapers_and_tells_the_past(ada):
    job = running_job(2 * HOUR)
    page = ada.get(reverse("admin:sources_crawljob_change", args=[job.pk])).content.decode()
    assert reverse("admin:reaper_run", args=["crawl_job", job.pk]) in page
    assert "Claimed by celery@w1/abc." in page


def test_the_page_of_a_parent_which_is_no_run_is_as_it_was(ada):
    page = ada.get(reverse("admin:sources_crawljob_change", args=[parent("completed").pk])).content.decode()
    assert "/run/crawl_job/" not in page


# --- many runs ----------------------------------------------------------------------------------------------------


def ask(client, action, *rows, across=False):
    """Choose an action on the list of jobs; return the page that asks."""
    data = {"action": action, "_selected_action": [row.pk for row in rows], "select_across": "01"[across]}
    return client.post(reverse("admin:sources_crawljob_changelist"), data)


def confirm(client, response):
    """Say yes on the page that asks."""
    context = response.context
    data = {"kind": context["kind"], "act": context["act"], "runs": context["lines"]}
    return press(client, "act_on_all", **data)


@pytest.mark.parametrize(("action", "status"), [("reaper_fail", "failed"), ("reaper_requeue", "pending")])
def test_many_runs_are_dealt_with_once_they_are_confirmed(ada, action, status):
    jobs = [running_job(HOUR), queued_job(HOUR), running_job(HOUR, status="completed"), parent("completed")]
    page = ask(ada, action, *jobs)
    assert (page.context["count"], page.context["left_out"]) == (2, 2)
    assert f"{jobs[0].pk}" in text(page)
    assert [fresh(job).status for job in jobs] == ["running", "pending", "completed", "running"]
    assert "2 of 2 crawl_job runs" in confirm(ada, page)
    assert [fresh(job).status for job in jobs] == [status, status, "completed", "running"]
    assert set(LedgerEntry.objects.values_list("actor", "reason")) == {("ada", "manual")}


def test_of_many_runs_the_first_are_named_and_the_others_counted(ada, monkeypatch):
    monkeypatch.setattr(pages, "NAMED", 2)
    jobs = [running_job(HOUR) for _ in range(5)]
    page = ask(ada, "reaper_fail", *jobs)
    assert (len(page.context["runs"]), page.context["count"]) == (2, 5)
    assert "… and 3 more" in text(page)


def test_many_runs_are_left_alone(ada):
    jobs = [running_job(HOUR) for _ in range(3)]
    assert "3 of 3 crawl_job runs: left alone" in confirm(ada, ask(ada, "reaper_exempt", *jobs))
    assert set(Exemption.objects.values_list("run_id", flat=True)) == {str(job.pk) for job in jobs}
    confirm(ada, ask(ada, "reaper_exempt", *jobs))
    assert Exemption.objects.count() == 3


def test_of_many_those_that_changed_meanwhile_are_left_as_they_are(ada):
    stays, ends, begins_anew = (running_job(HOUR) for _ in range(3))
    page = ask(ada, "reaper_fail", stays, ends, begins_anew)
    CrawlJob.objects.filter(pk=ends.pk).update(status="completed")
    CrawlJob.objects.filter(pk=begins_anew.pk).update(task_id="another")
    said = confirm(ada, page)
    assert "1 of 3 crawl_job runs: failed." in said
    assert "2 have changed since you looked, or have ended." in said
    assert [fresh(each).status for each in (stays, ends, begins_anew)] == ["failed", "completed", "running"]


def test_more_than_a_request_deals_with_are_told_and_left(ada, monkeypatch):
    monkeypatch.setattr(pages, "MOST", 3)
    jobs = [running_job(HOUR) for _ in range(5)]
    page = ask(ada, "reaper_fail", *jobs, across=True)
    assert (page.context["count"], page.context["beyond"]) == (3, 2)
    assert "2 more are not dealt with now" in text(page)
    confirm(ada, page)
    assert CrawlJob.objects.filter(status="failed").count() == 3


@pytest.mark.parametrize("lines", ["", "x", f"{NOBODY} 0123", "x y\nz", "\x00 1", f"{NOBODY}"])
def test_a_list_that_names_nobody_does_nothing(ada, lines):
    assert "0 of" in press(ada, "act_on_all", kind="crawl_job", act="fail", runs=lines)
    assert not LedgerEntry.objects.exists()


@pytest.mark.long
def test_of_10000_selected_runs_as_many_as_a_request_deals_with_are_failed_within_seconds(ada):
    one = running_job(HOUR)
    CrawlJob.objects.bulk_create(
        CrawlJob(
            source=one.source, status="running", task_id=f"t{number}", created_at=NOW - HOUR, queued_at=NOW - HOUR,
            started_at=NOW - HOUR,
        )
        for number in range(9_999)
    )  # fmt: skip
    page = ask(ada, "reaper_fail", one, across=True)
    assert (page.context["count"], page.context["beyond"]) == (pages.MOST, 10_000 - pages.MOST)
    assert "2,000 of 2,000 crawl_job runs: failed." in confirm(ada, page)
    assert CrawlJob.objects.filter(status="failed").count() == 2000


# --- who may ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["GET", "POST", "POST without its token"])
@pytest.mark.parametrize("role", ["anonymous", "no staff", "staff", "looks", "reaps", "superuser"])
@pytest.mark.usefixtures("schedules")
def test_only_a_post_with_its_token_by_somebody_who_may_reap_does_anything(role, how):
    first, second = running_job(HOUR), running_job(HOUR)
    user, client = user_of(role), Client(enforce_csrf_checks=True)
    if user:
        client.force_login(user)
    token = "t" * 32
    client.cookies["csrftoken"] = token
    more = {"csrfmiddlewaretoken": token} if how == "POST" else {}
    orders = {
        "order": {"kind": "crawl_job", "order": "off"},
        "schedule": {"schedule": beat_row().pk, "enabled": "0"},
        "act": {"kind": "crawl_job", "pk": str(first.pk), "act": "fail", "seen": seen(first)},
        "act_on_all": {"kind": "crawl_job", "act": "fail", "runs": f"{second.pk} {seen(second)}"},
        "policyoverride_add": {"run_timeout": "3h"},
    }
    for name, data in orders.items():
        (client.get if how == "GET" else client.post)(reverse(f"admin:reaper_{name}"), data | more)
    changed = (
        KindControl.objects.exists(),
        not beat_row().enabled,
        fresh(first).status == "failed",
        fresh(second).status == "failed",
        PolicyOverride.objects.exists(),
    )
    assert changed == ((role in ("reaps", "superuser") and how == "POST"),) * 5


@pytest.mark.parametrize("name", ["order", "schedule", "act", "act_on_all"])
@pytest.mark.parametrize("method", ["get", "put", "delete"])
def test_a_button_is_pressed_by_post_only(ada, name, method):
    assert getattr(ada, method)(reverse(f"admin:reaper_{name}")).status_code == 405


@pytest.mark.parametrize("role", ["staff", "looks", "reaps"])
def test_the_list_of_runs_has_the_reapers_actions_only_for_those_who_may(client, role):
    from django.contrib.auth.models import Permission

    user = user_of(role)
    user.user_permissions.add(Permission.objects.get(codename="view_crawljob"))
    client.force_login(user)
    running_job()
    page = client.get(reverse("admin:sources_crawljob_changelist")).content.decode()
    assert ("reaper_fail" in page) == (role == "reaps")


def test_a_run_is_explained_only_to_those_who_may_look(client):
    job = running_job()
    for role, status in (("staff", 403), ("looks", 200), ("reaps", 200)):
        client.force_login(user_of(role))
        assert run_page(client, job).status_code == status


# --- thresholds ---------------------------------------------------------------------------------------------------


def edit(client, kind="crawl_job", **data):
    with freeze_time(NOW):
        return client.post(reverse("admin:reaper_policyoverride_add") + f"?kind={kind}", data, follow=True)


def test_thresholds_are_edited_in_the_users_name_and_it_is_in_the_history(ada):
    response = edit(ada, run_timeout="3h", on_orphan="requeue", base_version="0")
    said = "Edited crawl_job: run_timeout: 1 h -> 3 h; on_orphan: fail -> requeue. This counts from the next sweep on."
    assert [str(each) for each in response.context["messages"]] == [said]
    assert escape(said) in response.content.decode()
    assert policies.effective_policy(conf.adapters()["crawl_job"]).run_timeout == 3 * HOUR
    assert "run_timeout: 1 h -&gt; 3 h" in ada.get(reverse("admin:reaper_policyoverride_changelist")).content.decode()
    assert LogEntry.objects.get().change_message == "run_timeout: 1 h -> 3 h; on_orphan: fail -> requeue"


def test_wrong_thresholds_are_refused_and_stay_in_the_form(ada):
    page = edit(ada, run_timeout="1s", max_requeues="3").content.decode()
    assert "run_timeout: expected a duration of at least 12 s, got 1 s. Use 12 s or more." in page
    assert 'value="1s"' in page
    assert not PolicyOverride.objects.exists()


def test_a_preview_names_the_runs_and_saves_nothing(ada):
    job = held_job(40 * MINUTE)
    page = text(edit(ada, run_timeout="35m", alert_after="20m", _preview="Preview"))
    assert "run_timeout: 1 h -&gt; 35 min; alert_after: 30 min -&gt; 20 min. 1 run would be acted on" in page
    assert f"crawl_job:{job.pk} running fail timed_out" in page
    assert (PolicyOverride.objects.count(), fresh(job).status) == (0, "running")


def test_an_edit_that_somebody_else_has_made_meanwhile_is_not_undone(ada):
    policies.set_overrides(conf.adapters()["crawl_job"], "bob", NOW, {"run_timeout": 2 * HOUR})
    page = text(edit(ada, run_timeout="3h", base_version="0"))
    assert "bob has changed the policy in the meantime. Check it and try again." in page
    assert PolicyOverride.objects.count() == 1


def test_the_thresholds_of_a_kind_that_is_not_there_are_not_found(ada):
    assert edit(ada, kind="nobody").status_code == 404
