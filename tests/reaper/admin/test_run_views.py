"""The page of one run and its buttons: what each does, and that a run that has changed is left alone."""

import pytest
from django.db import connection
from django.urls import reverse
from freezegun import freeze_time

from apps.sources import claims
from apps.sources.models import CrawlJob
from reaper.broker.connection import Broker
from reaper.conf import settings as conf
from reaper.core.facts import Phase
from reaper.exceptions import BrokerUnavailable
from reaper.models import Exemption, LedgerEntry
from reaper.sweeps.sweep import sweep
from tests.factories import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    fresh,
    held_job,
    parent,
    queued_job,
    running_job,
)
from tests.reaper.admin.pages import (
    NOBODY,
    act,
    confirm,
    failed_job,
    press,
    run_page,
    seen,
    select_action,
    text_of,
)
from tests.servers import killed

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("broker", "limits"),
    pytest.mark.filterwarnings("ignore:No directory at:UserWarning"),
]


def test_run_page_shows_facts_next_action_limits_and_timeline(ada):
    job = running_job(2 * HOUR)
    page = text_of(run_page(ada, job))
    assert (
        f"It has been running for 2 h, started by celery@w1/abc, no progress recorded, task id {job.task_id}." in page
    )
    assert "It would be failed: it was running longer than its run timeout (rule timed_out)." in page
    assert "Limits: run_timeout 1 h" in page
    assert "2026-03-01 10:00:00 UTC Claimed by celery@w1/abc." in page
    assert f"2026-03-01 10:00:00 UTC Dispatched as task {job.task_id}." in page
    assert "Requeue Fail Revoke its task Exempt" in page


def test_timeline_shows_recovery_and_rejected_late_write(ada):
    job = queued_job(3 * HOUR)
    with freeze_time(NOW - 2 * HOUR):
        claim = claims.claim(CrawlJob, job.pk, job.task_id, "celery@w1/abc")
    act(ada, job, "fail")
    with pytest.raises(claims.ClaimLost), freeze_time(NOW + SECOND):
        claim.complete({"pages": 1})
    page = text_of(run_page(ada, job, NOW + MINUTE))
    assert f"2026-03-01 12:00:01 UTC Rejected a late complete of task {job.task_id} on celery@w1/abc." in page
    assert "2026-03-01 12:00:00 UTC Failed by ada (rule manual). It had been running for 2 h." in page
    assert "It has ended with status failed" in page
    assert "Requeue Fail" not in page


def test_fail_ends_run_in_users_name_and_revokes_task(ada, broker):
    job = running_job(2 * HOUR)
    assert f"crawl_job:{job.pk} was failed." in act(ada, job, "fail")
    assert fresh(job).status == "failed"
    assert fresh(job).error_code == "manual"
    row = LedgerEntry.objects.get()
    assert row.actor == "ada"
    assert row.action == "fail"
    assert row.reason == "manual"
    assert job.task_id in str(broker.revokes())


def test_buttons_with_atomic_requests_still_publish(ada, broker, monkeypatch):
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    job = running_job(2 * HOUR)
    assert "was requeued." in act(ada, job, "requeue")
    assert fresh(job).task_id in broker.ids()
    assert f"crawl_job:{job.pk}" in text_of(run_page(ada, job))
    assert "1 of 1 crawl_job runs failed." in confirm(ada, select_action(ada, "reaper_fail", job))


def test_requeue_publishes_new_task(ada, broker):
    job = running_job(2 * HOUR)
    assert "was requeued." in act(ada, job, "requeue")
    assert fresh(job).status == "pending"
    assert fresh(job).task_id != job.task_id
    assert fresh(job).task_id in broker.ids()


def test_revoke_terminates_task_and_leaves_run_unchanged(ada, broker):
    job = held_job(MINUTE)
    before = CrawlJob.objects.filter(pk=job.pk).values().get()
    assert f"The task of crawl_job:{job.pk} was revoked." in act(ada, job, "revoke")
    assert CrawlJob.objects.filter(pk=job.pk).values().get() == before
    row = LedgerEntry.objects.get()
    assert row.actor == "ada"
    assert row.action == "revoke"
    assert row.task_id == job.task_id
    assert row.terminate
    assert not row.owes_revoke
    assert killed([job.task_id], "celery@w1") in broker.revokes()


def test_revoke_that_broker_rejects_is_sent_by_next_sweep(ada, broker, monkeypatch):
    job = held_job(MINUTE)

    def refuse(*arguments, **more):
        raise BrokerUnavailable("publishing to the broker failed: nobody is there")

    with monkeypatch.context() as patched:
        patched.setattr(Broker, "revoke", refuse)
        assert "It is recorded, and the next sweep sends it." in act(ada, job, "revoke")
    assert LedgerEntry.objects.get().owes_revoke
    with freeze_time(NOW + SECOND):
        sweep(conf.adapters()["crawl_job"], Phase.RUNNING)
    assert not LedgerEntry.objects.get(action="revoke").owes_revoke
    assert job.task_id in str(broker.revokes())


def test_exempt_and_remove_exemption(ada):
    job = running_job(2 * HOUR)
    assert "is exempt from recovery" in act(ada, job, "exempt")
    assert Exemption.objects.get().run_id == str(job.pk)
    assert Exemption.objects.get().actor == "ada"
    assert "No action: it is exempt from recovery" in text_of(run_page(ada, job))
    assert "is monitored again" in act(ada, job, "unexempt")
    assert not Exemption.objects.exists()


def test_complete_parent_from_page_of_child(ada):
    job = parent("completed", "completed")
    first = job.source_results.first()
    assert "The parent was completed." in act(ada, first, "finalize")
    assert fresh(job).status == "completed"
    assert "The parent was not completed" in act(ada, first, "finalize")


def test_complete_parent_with_unfinished_child_is_refused(ada):
    job = parent("completed", "running")
    assert "The parent was not completed" in act(ada, job.source_results.first(), "finalize")
    assert fresh(job).status == "running"
    assert "The parent was not completed" in act(ada, running_job(), "finalize")


def test_reopened_run_can_be_completed_by_its_task(ada):
    job, claim = failed_job()
    before = CrawlJob.objects.values_list("started_at", "task_id", "worker").get(pk=job.pk)
    assert "Undo: mark as running again" in text_of(run_page(ada, job))
    assert f"The run crawl_job:{job.pk} is marked as running again." in act(ada, job, "reopen")
    after = fresh(job)
    assert after.status == "running"
    assert after.completed_at is None
    assert after.error_code == ""
    assert (after.started_at, after.task_id, after.worker) == before
    assert [(row.action, row.actor) for row in LedgerEntry.objects.order_by("id")] == [("fail", ""), ("reopen", "ada")]
    with freeze_time(NOW + SECOND):
        claim.complete({"pages": 1})
    assert fresh(job).status == "completed"
    assert "Undo: mark as running again" not in text_of(run_page(ada, job))
    assert "Reopened by ada." in text_of(run_page(ada, job))


def test_reopened_run_that_is_still_stuck_is_failed_again(ada):
    job, _ = failed_job()
    act(ada, job, "reopen")
    with freeze_time(NOW + SECOND):
        sweep(conf.adapters()["crawl_job"], Phase.RUNNING)
    assert fresh(job).status == "failed"
    assert fresh(job).error_code == "timed_out"


@pytest.mark.parametrize("changes", [{"status": "completed"}, {"task_id": "another"}, {"status": "pending"}])
def test_reopen_of_run_changed_since_is_refused(ada, changes):
    job, _ = failed_job()
    CrawlJob.objects.filter(pk=job.pk).update(**changes)
    before = CrawlJob.objects.filter(pk=job.pk).values().get()
    assert "cannot be reopened" in act(ada, job, "reopen")
    assert CrawlJob.objects.filter(pk=job.pk).values().get() == before
    assert LedgerEntry.objects.count() == 1


def test_reopen_of_run_the_reaper_did_not_end_is_refused(ada):
    job = running_job(status="failed")
    assert "cannot be reopened" in act(ada, job, "reopen")
    assert fresh(job).status == "failed"
    assert LedgerEntry.objects.count() == 0


def test_reopen_without_adapter_support_is_refused(ada, monkeypatch):
    job, _ = failed_job()
    monkeypatch.setattr(type(conf.adapters()["crawl_job"]), "supports_reopen", False)
    assert "Undo: mark" not in text_of(run_page(ada, job))
    assert "cannot be reopened" in act(ada, job, "reopen")
    assert fresh(job).status == "failed"


def test_reopen_of_child_of_ended_parent_is_refused(ada):
    job = parent("running", "completed")
    stuck = job.source_results.get(status="running")
    act(ada, stuck, "fail")
    assert fresh(job).finalized_at
    assert "cannot be reopened" in act(ada, stuck, "reopen")
    assert fresh(stuck).status == "failed"


def test_reopen_twice_reopens_once(ada):
    job, _ = failed_job()
    act(ada, job, "reopen")
    assert "cannot be reopened" in act(ada, job, "reopen")
    assert LedgerEntry.objects.filter(action="reopen").count() == 1


@pytest.mark.parametrize("button", ["fail", "requeue", "revoke"])
@pytest.mark.parametrize(
    "changes", [{"status": "pending", "started_at": None}, {"task_id": "another"}, {"started_at": NOW}]
)
def test_button_on_run_changed_since_page_load_does_nothing(ada, broker, button, changes):
    job = running_job(2 * HOUR)
    before = seen(job)
    CrawlJob.objects.filter(pk=job.pk).update(**changes)
    message = act(ada, job, button, state_token=before)
    assert (
        message
        == f"The run crawl_job:{job.pk} changed since this page was loaded. Nothing was changed; check it again."
    )
    assert {name: getattr(fresh(job), name) for name in changes} == changes
    assert LedgerEntry.objects.count() == 0
    assert broker.ids() == []


def test_button_on_run_with_new_progress_still_works(ada):
    job = running_job(2 * HOUR)
    before = seen(job)
    CrawlJob.objects.filter(pk=job.pk).update(heartbeat_at=NOW)
    assert "was failed" in act(ada, job, "fail", state_token=before)


@pytest.mark.parametrize("button", ["fail", "requeue", "revoke"])
def test_button_pressed_twice_acts_once(ada, button):
    job = running_job(2 * HOUR)
    before = seen(job)
    act(ada, job, button, state_token=before)
    message = act(ada, job, button, state_token=before)
    if button != "revoke":
        assert "changed since this page was loaded" in message
        assert LedgerEntry.objects.count() == 1


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "paused"])
@pytest.mark.parametrize("button", ["fail", "requeue", "revoke"])
def test_button_on_finished_run_does_nothing(ada, status, button):
    job = running_job(2 * HOUR, status=status)
    assert "Nothing was changed" in act(ada, job, button)
    assert fresh(job).status == status
    assert LedgerEntry.objects.count() == 0


@pytest.mark.parametrize(
    ("kind", "pk", "button"),
    [
        ("crawl_job", NOBODY, "fail"),
        ("crawl_job", "<b>", "fail"),
        ("nobody", NOBODY, "fail"),
        ("crawl_job", "{run}", "fly"),
    ],
)
def test_button_with_unknown_kind_run_or_act_is_not_found(ada, kind, pk, button):
    job = running_job()
    data = {"kind": kind, "pk": pk.format(run=job.pk), "act": button, "state_token": seen(job)}
    assert press(ada, "act", **data) == 404


def test_run_page_of_unknown_run_is_not_found(ada):
    for kind, pk in (("crawl_job", NOBODY), ("crawl_job", "x/y"), ("nobody", NOBODY)):
        assert ada.get(reverse("admin:reaper_run", args=[kind, pk])).status_code == 404
