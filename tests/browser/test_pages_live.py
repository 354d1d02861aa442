"""The reaper's pages in a real browser, as the person on call uses them."""

import re
from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from apps.sources.models import CrawlJob
from reaper.conf import settings as conf
from reaper.controls.append_only import latest_row
from reaper.controls.modes import set_controls, state_of
from reaper.controls.overrides import effective_policy
from reaper.core.facts import Phase
from reaper.core.policy import Mode
from reaper.models import KindControl, LedgerEntry, PolicyOverride
from reaper.sweeps.parents import finalize_parents
from reaper.sweeps.sweep import sweep
from tests.browser.conftest import log_in, opened, picture, serious
from tests.factories import HOUR, MINUTE, SECOND, fresh, report, source

pytestmark = [
    pytest.mark.live,
    pytest.mark.long,
    pytest.mark.xdist_group("browser"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("broker", "limits", "real_clock"),
    pytest.mark.filterwarnings("ignore:No directory at:UserWarning"),
]


@pytest.fixture
def real_clock(settings):
    """Use the real clock."""
    from reaper.schedules import create_missing

    # A test that commits has emptied the tables.
    create_missing("default")


def job(status="running", ago=MINUTE, **fields):
    """A job that was claimed, or dispatched, `ago`."""
    now = timezone.now()
    stamps = {"created_at": now - ago, "queued_at": now - ago}
    if status == "running":
        stamps |= {"started_at": now - ago, "worker": "celery@dead/abc"}
    number = CrawlJob.objects.count()
    return CrawlJob.objects.create(source=source(), status=status, task_id=f"task-{number}", **stamps | fields)


def workers():
    """Record one live worker and one dead worker."""
    now = timezone.now()
    report("celery@w1/abc", now=now, queues=["crawl"])
    report("celery@dead/abc", now=now, silent=MINUTE, queues=["crawl"])


def swept():
    """Record a recent sweep of every phase of every kind."""
    for adapter in conf.adapters().values():
        for phase in (Phase.RUNNING, Phase.QUEUED):
            sweep(adapter, phase)
        finalize_parents(adapter)


def past(number=400):
    """Record a month of actions, for the charts."""
    now = timezone.now()
    reasons = ("orphaned", "orphaned", "lost", "timed_out", "stranded")
    LedgerEntry.objects.bulk_create(
        LedgerEntry(
            created_at=now - timedelta(hours=(each * 7 % 24) if each % 2 else (each * 31 % 720)),
            kind="crawl_job",
            run_id=str(each),
            phase="running",
            action="fail",
            reason=reasons[each % 5],
            unattended_seconds=8 + each % 23,
        )
        for each in range(number)
    )


def test_stuck_run_appears_live_and_is_explained(tab):
    workers()
    swept()
    tab.reload()
    expect(tab.get_by_text("Nothing is stuck.")).to_be_visible()
    stuck = job()
    expect(tab.get_by_role("link", name=str(stuck.pk))).to_be_visible()
    expect(tab.locator(".reaper-verdict")).to_contain_text("1 crawl_job run stuck or at risk.")
    expect(tab.get_by_text("started by celery@dead, which is dead")).to_be_visible()
    past()
    workers()
    tab.reload()
    picture(tab, "overview")
    tab.get_by_role("link", name=str(stuck.pk)).click()
    expect(tab.get_by_text("It would be failed: no live worker has its task any more (rule orphaned).")).to_be_visible()
    expect(tab.get_by_text("Claimed by celery@dead/abc.")).to_be_visible()
    picture(tab, "run")


def test_live_update_pauses_when_focused_or_switched_off(tab):
    # The page's own clock is moved on: nobody waits.
    tab.clock.install()
    tab.reload()
    tab.get_by_label("live").uncheck()
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.clock.run_for(60_000)
    tab.get_by_label("live").check()
    tab.get_by_role("button", name="Dry run").first.focus()
    tab.clock.run_for(60_000)
    assert asked == []
    tab.get_by_label("live").focus()
    with tab.expect_request("**/admin/reaper/"):
        tab.clock.run_for(5_000)


def test_kind_switches_from_dry_run_to_act(tab):
    kind = tab.get_by_role("form", name="Recovery of crawl_job")
    kind.get_by_role("button", name="Dry run").click()
    expect(tab.get_by_text("crawl_job: mode dry_run.")).to_be_visible()
    assert state_of(conf.adapters()["crawl_job"], timezone.now()).mode is Mode.DRY_RUN
    kind.get_by_role("button", name="Activate").click()
    expect(tab.get_by_text("crawl_job: mode act.")).to_be_visible()
    assert state_of(conf.adapters()["crawl_job"], timezone.now()).mode is Mode.ACT


def test_lifted_brake_lets_the_held_runs_be_done(tab):
    workers()
    report("celery@w1/abc", now=timezone.now(), queues=["crawl"], since=timezone.now() - HOUR)
    jobs = [job(ago=2 * HOUR) for _ in range(30)]
    swept()
    tab.reload()
    expect(tab.locator(".reaper-verdict")).to_contain_text("30 of 30 running runs would be acted on at once")
    tab.get_by_role("form", name="Recovery of crawl_job").get_by_role("button", name="Lift the brake").click()
    expect(tab.get_by_text(re.compile("Recovery of crawl_job: .*brake lifted until"))).to_be_visible()
    swept()
    tab.reload()
    assert {fresh(each).status for each in jobs} == {"failed"}
    expect(tab.locator(".reaper-verdict")).not_to_contain_text("would be acted on at once")


def test_requeue_button_requeues_and_a_stale_page_changes_nothing(tab, chromium, live_server):
    workers()
    stuck = job()
    with opened(chromium, live_server.url) as other:
        log_in(other, "ada")
        for page in (tab, other):
            page.goto(f"/admin/reaper/sweep/run/crawl_job/{stuck.pk}/")
        tab.get_by_role("button", name="Requeue").click()
        expect(tab.get_by_text(f"The run crawl_job:{stuck.pk} was requeued.")).to_be_visible()
        task_id = fresh(stuck).task_id
        other.get_by_role("button", name="Fail").click()
        expect(
            other.get_by_text("changed since this page was loaded. Nothing was changed; check it again.")
        ).to_be_visible()
    assert fresh(stuck).status == "pending"
    assert fresh(stuck).task_id == task_id
    assert LedgerEntry.objects.count() == 1


def test_double_click_acts_once(tab):
    workers()
    stuck = job()
    tab.goto(f"/admin/reaper/sweep/run/crawl_job/{stuck.pk}/")
    tab.get_by_role("button", name="Fail").dblclick()
    expect(tab.locator(".messagelist")).to_be_visible()
    tab.wait_for_load_state("networkidle")
    assert fresh(stuck).status == "failed"
    assert LedgerEntry.objects.count() == 1


def test_threshold_form_refuses_invalid_and_saves_valid_values(tab):
    workers()
    job(ago=40 * MINUTE)
    tab.get_by_role("form", name="Recovery of crawl_job").get_by_role("link", name="Policy").click()
    tab.get_by_label("run_timeout").fill("1s")
    tab.get_by_role("button", name="Save").click()
    expect(
        tab.get_by_text("run_timeout: expected a duration of at least 12 s, got 1 s. Use 12 s or more.")
    ).to_be_visible()
    assert latest_row(PolicyOverride, conf.adapters()["crawl_job"]) is None
    tab.get_by_label("run_timeout").fill("35m")
    tab.get_by_label("alert_after").fill("20m")
    tab.get_by_role("button", name="Preview").click()
    expect(tab.get_by_text("1 run would be recovered")).to_be_visible()
    picture(tab, "thresholds")
    assert latest_row(PolicyOverride, conf.adapters()["crawl_job"]) is None
    tab.get_by_role("button", name="Save").click()
    expect(tab.get_by_text("It takes effect with the next sweep.")).to_be_visible()
    assert effective_policy(conf.adapters()["crawl_job"]).run_timeout == 35 * MINUTE


def test_list_action_fails_several_runs_after_confirmation(tab):
    jobs = [job(), job("pending"), job(status="completed")]
    tab.goto("/admin/sources/crawljob/")
    tab.locator("#action-toggle").check()
    tab.get_by_label("Action:").select_option("Reaper: fail")
    tab.get_by_role("button", name="Go").click()
    expect(tab.get_by_text("2 unfinished crawl_job runs")).to_be_visible()
    assert serious(tab) == []
    tab.get_by_role("button", name="Fail 2 runs").click()
    expect(tab.get_by_text("2 of 2 crawl_job runs failed.")).to_be_visible()
    assert [fresh(each).status for each in jobs] == ["failed", "failed", "completed"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_have_no_serious_accessibility_violation(tab, theme):
    workers()
    past()
    stuck = job()
    kind_off = set_controls(conf.adapters()["source_result"], "ada", timezone.now(), mode=Mode.OFF)
    assert KindControl.objects.get() == kind_off
    tab.emulate_media(color_scheme=theme)
    for page in (
        "/admin/reaper/",
        f"/admin/reaper/sweep/run/crawl_job/{stuck.pk}/",
        "/admin/reaper/policyoverride/add/?kind=crawl_job",
        f"/admin/sources/crawljob/{stuck.pk}/change/",
    ):
        tab.goto(page)
        assert serious(tab) == [], page


def test_pages_fit_the_width_of_a_phone(chromium, live_server, ada):
    workers()
    past()
    job()
    with opened(chromium, live_server.url, viewport={"width": 390, "height": 800}) as phone:
        log_in(phone, "ada")
        for page in ("/admin/reaper/", "/admin/reaper/policyoverride/add/?kind=crawl_job"):
            phone.goto(page)
            wide = phone.evaluate("document.documentElement.scrollWidth")
            assert wide == 390, page


def test_pages_work_without_javascript(chromium, live_server, ada):
    workers()
    stuck = job()
    with opened(chromium, live_server.url, java_script_enabled=False) as plain:
        log_in(plain, "ada")
        expect(plain.get_by_role("link", name=str(stuck.pk))).to_be_visible()
        plain.get_by_role("link", name=str(stuck.pk)).click()
        plain.get_by_role("button", name="Fail").click()
        expect(plain.get_by_text(f"The run crawl_job:{stuck.pk} was failed.")).to_be_visible()
    assert fresh(stuck).status == "failed"


def test_hostile_names_run_no_script(tab):
    nasty = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    report(f"{nasty}/1", now=timezone.now() - SECOND, queues=[nasty])
    stuck = job(worker=f"{nasty}/1", error_message=nasty)
    LedgerEntry.objects.create(
        created_at=timezone.now(),
        kind="crawl_job",
        run_id=str(stuck.pk),
        phase="running",
        action="fail",
        reason=nasty[:50],
        message=nasty,
        actor=nasty,
    )
    alarms = []
    tab.on("dialog", lambda dialog: (alarms.append(dialog.message), dialog.dismiss()))
    for page in ("/admin/reaper/", f"/admin/reaper/sweep/run/crawl_job/{stuck.pk}/"):
        tab.goto(page)
        tab.wait_for_load_state("networkidle")
    assert alarms == []
