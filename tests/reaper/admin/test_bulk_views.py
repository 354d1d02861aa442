"""Many runs at once: selected in the host's list, confirmed on a page, and only those that are as they were seen."""

import pytest

from apps.sources.models import CrawlJob
from reaper.admin import bulk_views
from reaper.models import (
    Exemption,
    LedgerEntry,
)
from tests.factories import (
    HOUR,
    NOW,
    fresh,
    parent,
    queued_job,
    running_job,
)
from tests.reaper.admin.pages import (
    NOBODY,
    confirm,
    press,
    select_action,
    text_of,
)

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("broker", "limits"),
    pytest.mark.filterwarnings("ignore:No directory at:UserWarning"),
]


@pytest.mark.parametrize(("action", "status"), [("reaper_fail", "failed"), ("reaper_requeue", "pending")])
def test_selected_runs_are_acted_on_after_confirmation(ada, action, status):
    jobs = [running_job(HOUR), queued_job(HOUR), running_job(HOUR, status="completed"), parent("completed")]
    page = select_action(ada, action, *jobs)
    assert page.context["count"] == 2
    assert page.context["left_out"] == 2
    assert f"{jobs[0].pk}" in text_of(page)
    assert [fresh(job).status for job in jobs] == ["running", "pending", "completed", "running"]
    assert "2 of 2 crawl_job runs" in confirm(ada, page)
    assert [fresh(job).status for job in jobs] == [status, status, "completed", "running"]
    assert set(LedgerEntry.objects.values_list("actor", "reason")) == {("ada", "manual")}


def test_confirmation_names_the_first_runs_and_counts_the_rest(ada, monkeypatch):
    monkeypatch.setattr(bulk_views, "MAX_NAMED", 2)
    jobs = [running_job(HOUR) for _ in range(5)]
    page = select_action(ada, "reaper_fail", *jobs)
    assert len(page.context["runs"]) == 2
    assert page.context["count"] == 5
    assert "… and 3 more" in text_of(page)


def test_selected_runs_are_exempted(ada):
    jobs = [running_job(HOUR) for _ in range(3)]
    assert "3 of 3 crawl_job runs exempt from recovery" in confirm(ada, select_action(ada, "reaper_exempt", *jobs))
    assert set(Exemption.objects.values_list("run_id", flat=True)) == {str(job.pk) for job in jobs}
    confirm(ada, select_action(ada, "reaper_exempt", *jobs))
    assert Exemption.objects.count() == 3


def test_selected_runs_that_changed_are_left_unchanged(ada):
    stays, ends, begins_anew = (running_job(HOUR) for _ in range(3))
    page = select_action(ada, "reaper_fail", stays, ends, begins_anew)
    CrawlJob.objects.filter(pk=ends.pk).update(status="completed")
    CrawlJob.objects.filter(pk=begins_anew.pk).update(task_id="another")
    message = confirm(ada, page)
    assert "1 of 3 crawl_job runs failed." in message
    assert "2 changed since the page was loaded, or have finished; left unchanged." in message
    assert [fresh(each).status for each in (stays, ends, begins_anew)] == ["failed", "completed", "running"]


def test_runs_above_the_limit_are_reported_and_left_unchanged(ada, monkeypatch):
    monkeypatch.setattr(bulk_views, "MAX_RUNS", 3)
    jobs = [running_job(HOUR) for _ in range(5)]
    page = select_action(ada, "reaper_fail", *jobs, across=True)
    assert page.context["count"] == 3
    assert page.context["beyond"] == 2
    assert "2 more will be left for later" in text_of(page)
    confirm(ada, page)
    assert CrawlJob.objects.filter(status="failed").count() == 3


@pytest.mark.parametrize("lines", ["", "x", f"{NOBODY} 0123", "x y\nz", "\x00 1", f"{NOBODY}"])
def test_confirmed_list_without_valid_lines_does_nothing(ada, lines):
    assert "0 of" in press(ada, "act_on_runs", kind="crawl_job", act="fail", runs=lines)
    assert not LedgerEntry.objects.exists()


@pytest.mark.long
def test_10000_selected_runs_fails_only_the_limit(ada):
    one = running_job(HOUR)
    CrawlJob.objects.bulk_create(
        CrawlJob(
            source=one.source, status="running", task_id=f"t{number}", created_at=NOW - HOUR, queued_at=NOW - HOUR,
            started_at=NOW - HOUR,
        )
        for number in range(9_999)
    )  # fmt: skip
    page = select_action(ada, "reaper_fail", one, across=True)
    assert page.context["count"] == bulk_views.MAX_RUNS
    assert page.context["beyond"] == 10_000 - bulk_views.MAX_RUNS
    assert "2,000 of 2,000 crawl_job runs failed." in confirm(ada, page)
    assert CrawlJob.objects.filter(status="failed").count() == 2000
