"""The whole stack: a real browser, web server, Beat and reaper, and a run without a worker."""

import pytest
from django.conf import global_settings
from django.test import override_settings
from django.utils import timezone
from playwright.sync_api import expect

from apps.sources.models import CrawlJob, Source
from reaper.models import LedgerEntry
from tests.browser.conftest import PASSWORD, log_in, opened
from tests.factories import HOUR, fresh
from tests.processes import wait_until
from tests.reaper.test_beat_live import (
    CONTROL,
    PROMISED,
    WATCHED,
    broker,
    last_sweep,
    later_sweep,
    processes,
)  # fmt: skip

pytestmark = [
    pytest.mark.live,
    pytest.mark.long,
    pytest.mark.xdist_group("browser"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(600),
]
__all__ = ["broker", "processes"]  # fixtures


@pytest.fixture
def tab(chromium, processes, django_user_model):
    """A tab in which ada has logged in at the real server; Beat and a worker of the reaper's queue are up."""
    processes.migrate()
    # The web server knows only the hashers of the real settings.
    with override_settings(PASSWORD_HASHERS=global_settings.PASSWORD_HASHERS):
        django_user_model.objects.create_superuser("ada", password=PASSWORD)
    with opened(chromium, processes.start_server()) as page:
        log_in(page, "ada")
        processes.start_worker()
        processes.start_beat()
        later_sweep(WATCHED, None)
        page.reload()
        yield page


def stuck():
    """A job that was claimed two hours ago, by a worker that never sent a heartbeat."""
    then = timezone.now() - 2 * HOUR
    return CrawlJob.objects.create(
        source=Source.objects.create(name="source", url="http://127.0.0.1/"),
        status="running", worker="celery@gone/abc",
        task_id=f"task-{CrawlJob.objects.count()}", created_at=then, queued_at=then, started_at=then,
    )  # fmt: skip


def test_stuck_run_is_shown_explained_and_recovered(tab):
    kind = tab.get_by_role("form", name="Recovery of crawl_job")
    kind.get_by_role("button", name="Dry run").click()
    expect(tab.get_by_text("crawl_job: mode dry_run.")).to_be_visible()
    first = stuck()
    # It appears by itself, and while the kind is only observed nothing happens to it.
    expect(tab.get_by_role("link", name=str(first.pk))).to_be_visible()
    later_sweep(WATCHED, last_sweep(WATCHED))
    assert fresh(first).status == "running"
    assert LedgerEntry.objects.applied().count() == 0
    tab.get_by_role("link", name=str(first.pk)).click()
    expect(tab.get_by_text("It would be failed: it was running longer than its run timeout")).to_be_visible()
    tab.get_by_role("button", name="Requeue").click()
    expect(tab.get_by_text(f"The run crawl_job:{first.pk} was requeued.")).to_be_visible()
    assert fresh(first).status == "pending"
    second = stuck()
    tab.goto("/admin/reaper/")
    kind.get_by_role("button", name="Activate", exact=True).click()
    switched = timezone.now()
    wait_until(lambda: fresh(second).status == "failed", what="the reaper acts")
    assert LedgerEntry.objects.applied().get(run_id=str(second.pk)).created_at - switched < PROMISED
    expect(tab.locator("#reaper-overview")).to_contain_text("1 acted on (timed_out 1)")
    assert fresh(first).status == "pending"


def test_schedule_button_stops_and_starts_beat(tab):
    name = "reaper: sweep running runs"
    tab.get_by_role("button", name=f"Disable {name}").click()
    switched = timezone.now()
    expect(tab.get_by_text(f"“{name}” is disabled; Beat follows within 10 s.")).to_be_visible()
    # The other one goes on every 30 s: what comes of the first within that time, comes too late.
    later_sweep(CONTROL, later_sweep(CONTROL, None))
    stopped = last_sweep(WATCHED)
    assert stopped - switched < PROMISED
    tab.reload()
    expect(tab.get_by_text("its schedule is disabled").first).to_be_visible()
    tab.get_by_role("button", name=f"Enable {name}").click()
    switched = timezone.now()
    wait_until(lambda: last_sweep(WATCHED) > stopped, what="a sweep after it was switched on")
    assert last_sweep(WATCHED) - switched < PROMISED
