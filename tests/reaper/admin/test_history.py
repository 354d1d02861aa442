"""The reaper's records in the admin: every page shows its figures, and nothing in it can be changed."""

import pytest
from django.urls import reverse
from freezegun import freeze_time

from reaper.conf import settings as conf
from reaper.core.facts import Phase
from reaper.core.policy import Action
from reaper.models import Exemption, KindControl, LedgerEntry, RefusedWrite, Sweep, WorkerHeartbeat
from reaper.sweeps import manual
from reaper.sweeps.parents import finalize_parents
from reaper.sweeps.sweep import sweep
from tests.factories import (
    HOUR,
    NOW,
    parent,
    queued_job,
    running_job,
)
from tests.reaper.admin.pages import (
    page,
    shown_at,
)

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("broker", "limits"),
    pytest.mark.filterwarnings("ignore:No directory at:UserWarning"),
]

MODELS = (Sweep, LedgerEntry, KindControl, Exemption, RefusedWrite, WorkerHeartbeat)


@pytest.fixture
def records():
    """One reaping by a sweep, one by hand, a finalized parent, a refused write; returns the two runs and the parent."""
    failed, requeued, job = running_job(2 * HOUR), queued_job(), parent("completed")
    with freeze_time(NOW):
        crawl_jobs = conf.adapters()["crawl_job"]
        sweep(crawl_jobs, Phase.RUNNING)
        manual.act_on_run(crawl_jobs, crawl_jobs.get(str(requeued.pk)), Action.REQUEUE, "ann")
        finalize_parents(conf.adapters()["source_result"])
    RefusedWrite.objects.create(
        created_at=NOW,
        kind="crawl_job",
        run_id=str(failed.pk),
        task_id=failed.task_id,
        worker="celery@w1",
        write="complete",
    )
    WorkerHeartbeat.objects.create(
        hostname="celery@w1", incarnation="abc", seen_at=NOW, listed_at=NOW, since=NOW, queues=["crawl", "mail"],
        active={failed.task_id: NOW.timestamp()}, held=[requeued.task_id], complete=False,
    )  # fmt: skip
    run = {"created_at": NOW, "kind": "crawl_job", "run_id": str(failed.pk)}
    LedgerEntry.objects.create(
        **run, applied=False, task_id=failed.task_id, phase="running", action="fail", reason="stalled"
    )
    KindControl.objects.create(kind="crawl_job", created_at=NOW, actor="ann", mode="dry_run", paused_until=NOW + HOUR)
    Exemption.objects.create(**run, actor="ann", until=NOW + HOUR)
    return failed, requeued, job


def test_sweep_list_shows_counts_by_reason(admin_client, records):
    listed = shown_at(admin_client, page(Sweep))
    assert "timed_out 1" in listed
    assert "manual 1" in listed


def test_sweep_page_shows_reasons_problems_and_link_to_its_entries(admin_client, records):
    sweep = Sweep.objects.get(acted=1, phase="running")
    Sweep.objects.filter(pk=sweep.pk).update(errors=["no <broker>"])
    shown = shown_at(admin_client, page(Sweep, "change", sweep.pk))
    assert "timed_out: it was running longer than its run timeout" in shown
    assert "no &lt;broker&gt;" in shown
    link = f"{page(LedgerEntry)}?sweep__id__exact={sweep.pk}"
    assert link in shown
    assert str(records[0].pk) in shown_at(admin_client, link)
    assert str(records[1].pk) not in shown_at(admin_client, link)


def test_recovery_log_links_runs_and_parents_to_their_pages(admin_client, records):
    listed = shown_at(admin_client, page(LedgerEntry))
    failed, requeued, job = (reverse("admin:sources_crawljob_change", args=[row.pk]) for row in records)
    assert f'<a href="{failed}">crawl_job:{records[0].pk}</a>' in listed
    assert f'<a href="{requeued}">crawl_job:{records[1].pk}</a>' in listed
    assert f'<a href="{job}">source_result.parent:{records[2].pk}</a>' in listed
    assert "timed_out: it was running longer than its run timeout" in listed


def test_recovery_log_entry_shows_indented_facts(admin_client, records):
    row = LedgerEntry.objects.applied().get(run_id=records[0].pk)
    shown = shown_at(admin_client, page(LedgerEntry, "change", row.pk))
    assert "<pre>{\n  &quot;created_at&quot;" in shown
    assert row.message in shown


def test_entry_of_unknown_kind_and_reason_still_has_pages(admin_client):
    row = LedgerEntry.objects.create(
        created_at=NOW, kind="gone", run_id="<7>", phase="running", action="fail", reason="of old"
    )
    for url in (page(LedgerEntry), page(LedgerEntry, "change", row.pk)):
        shown = shown_at(admin_client, url)
        assert "gone:&lt;7&gt;" in shown
        assert "of old" in shown


def test_worker_list_shows_queues_and_worker_page_shows_task_ids(admin_client, records):
    listed = shown_at(admin_client, page(WorkerHeartbeat))
    for text in ("celery@w1", "abc", f"{NOW:%Y-%m-%d %H:%M:%S}", "2 or more", "crawl, mail"):
        assert text in listed
    ids = [records[0].task_id, LedgerEntry.objects.get(run_id=records[1].pk).task_id]
    assert not any(task_id in listed for task_id in ids)
    shown = shown_at(admin_client, page(WorkerHeartbeat, "change", WorkerHeartbeat.objects.get().pk))
    assert all(task_id in shown for task_id in ids)


def test_dry_run_mode_and_exemption_lists_show_what_was_set_and_by_whom(admin_client, records):
    shown = shown_at(admin_client, page(LedgerEntry), applied="0")
    assert "would fail (dry run)" in shown
    assert "stalled: " in shown
    assert "mode dry_run, paused until 2026-03-01 13:00:00 UTC" in shown_at(admin_client, page(KindControl))
    listed = shown_at(admin_client, page(Exemption))
    assert f"crawl_job:{records[0].pk}" in listed
    assert "ann" in listed


@pytest.mark.parametrize("term", ["{run.pk}", "{run.task_id}", "crawl_job:{run.pk}", " crawl_job:{run.pk} "])
@pytest.mark.parametrize("model", [LedgerEntry, RefusedWrite])
def test_search_by_run_or_task_id_finds_only_that_run(admin_client, records, model, term):
    shown = shown_at(admin_client, page(model), q=term.format(run=records[0]))
    assert str(records[0].pk) in shown
    assert str(records[1].pk) not in shown


@pytest.mark.parametrize(
    ("model", "query", "count"),
    [
        (Sweep, {"kind": "crawl_job"}, 2),
        (Sweep, {"phase": "parents"}, 1),
        (Sweep, {"success": "1"}, 3),
        (Sweep, {"success": "0"}, 0),
        (LedgerEntry, {"kind": "source_result.parent"}, 1),
        (LedgerEntry, {"action": "fail"}, 2),
        (LedgerEntry, {"action": "fail", "applied": "1"}, 1),
        (LedgerEntry, {"applied": "0"}, 1),
        (LedgerEntry, {"applied": "1"}, 3),
        (LedgerEntry, {"reason": "manual"}, 1),
        (LedgerEntry, {"q": "nothing like it"}, 0),
        (RefusedWrite, {"kind": "crawl_job"}, 1),
        (KindControl, {"kind": "crawl_job"}, 1),
        (Exemption, {"kind": "source_result"}, 0),
    ],
)
def test_filter_narrows_list(admin_client, records, model, query, count):
    assert admin_client.get(page(model), query).context["cl"].result_count == count


@pytest.mark.parametrize("model", MODELS)
def test_record_cannot_be_added_changed_or_deleted(admin_client, records, model):
    row = model.objects.first()
    before = list(model.objects.order_by("pk").values())
    pages = {"add": page(model, "add"), "delete": page(model, "delete", row.pk)}
    requests = {KindControl: {"add"}, Exemption: {"add", "delete"}}.get(model, set())
    for url in (page(model, "change", row.pk), *(pages[each] for each in pages.keys() - requests)):
        assert admin_client.post(url, {"kind": "changed", "post": "yes"}).status_code == 403
    if "delete" not in requests:
        admin_client.post(page(model), {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"})
    assert list(model.objects.order_by("pk").values()) == before


@pytest.mark.parametrize("model", MODELS)
def test_list_of_many_rows_needs_no_more_queries(admin_client, records, model, django_assert_max_num_queries):
    row = model.objects.order_by("idle" if model is Sweep else "pk").values().first()
    row.pop("id")
    own = {WorkerHeartbeat: "incarnation", LedgerEntry: "task_id", Exemption: "run_id"}.get(model)
    many = ({**row, own: str(n)} if own else row for n in range(60))
    model.objects.bulk_create(model(**fields) for fields in many)
    with django_assert_max_num_queries(6):
        shown_at(admin_client, page(model))
