"""The reaper's admin: every page shows its figures; what is written down stays, and orders can be added."""

from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from freezegun import freeze_time

from reaper.conf import settings as conf
from reaper.controls import modes as switches
from reaper.core.facts import Phase
from reaper.core.policy import Mode
from reaper.models import Exemption, KindControl, LedgerEntry, Observation, RefusedWrite, Sweep, WorkerHeartbeat
from reaper.sweeps import manual as by_hand
from reaper.sweeps import sweep as sweeps
from tests.worlds import NOW, SECOND, parent, queued_job, running_job

HOUR, YEAR = timedelta(hours=1), timedelta(days=366)
MODELS = (Sweep, LedgerEntry, Observation, KindControl, Exemption, RefusedWrite, WorkerHeartbeat)

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("broker", "limits"),
    # Static files are collected at deployment only.
    pytest.mark.filterwarnings("ignore:No directory at:UserWarning"),
]


@pytest.fixture
def records():
    """One reaping by a sweep, one by hand, a finalized parent, a refused write; returns the two runs and the parent."""
    failed, requeued, job = running_job(2 * HOUR), queued_job(), parent("completed")
    with freeze_time(NOW):
        crawl_jobs = conf.adapters()["crawl_job"]
        sweeps.sweep(crawl_jobs, Phase.RUNNING)
        by_hand.act_on_run(crawl_jobs, crawl_jobs.get(str(requeued.pk)), sweeps.Action.REQUEUE, "ann")
        sweeps.finalize_parents(conf.adapters()["source_result"])
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
    Observation.objects.create(**run, task_id=failed.task_id, phase="running", action="fail", reason="timed_out")
    KindControl.objects.create(kind="crawl_job", created_at=NOW, actor="ann", mode="dry_run", paused_until=NOW + HOUR)
    Exemption.objects.create(**run, actor="ann", until=NOW + HOUR)
    return failed, requeued, job


def page(model, view="changelist", *args):
    return reverse(f"admin:reaper_{model._meta.model_name}_{view}", args=args)


def text_of(client, url, **query):
    response = client.get(url, query)
    assert response.status_code == 200
    return response.content.decode()


def test_the_sweeps_are_listed_with_their_figures(admin_client, records):
    listed = text_of(admin_client, page(Sweep))
    assert "timed_out 1" in listed
    assert "manual 1" in listed


def test_a_sweep_shows_its_reasons_its_errors_and_the_way_to_what_it_did(admin_client, records):
    sweep = Sweep.objects.get(acted=1, phase="running")
    Sweep.objects.filter(pk=sweep.pk).update(errors=["no <broker>"])
    shown = text_of(admin_client, page(Sweep, "change", sweep.pk))
    assert "timed_out: it was running longer than its run timeout" in shown
    assert "no &lt;broker&gt;" in shown
    link = f"{page(LedgerEntry)}?sweep__id__exact={sweep.pk}"
    assert link in shown
    assert str(records[0].pk) in text_of(admin_client, link)
    assert str(records[1].pk) not in text_of(admin_client, link)


def test_the_ledger_links_runs_and_parents_to_their_pages(admin_client, records):
    listed = text_of(admin_client, page(LedgerEntry))
    failed, requeued, job = (reverse("admin:sources_crawljob_change", args=[row.pk]) for row in records)
    assert f'<a href="{failed}">crawl_job:{records[0].pk}</a>' in listed
    assert f'<a href="{requeued}">crawl_job:{records[1].pk}</a>' in listed
    assert f'<a href="{job}">source_result.parent:{records[2].pk}</a>' in listed
    assert "timed_out: it was running longer than its run timeout" in listed


def test_a_reaping_shows_its_facts_readably(admin_client, records):
    row = LedgerEntry.objects.get(run_id=records[0].pk)
    shown = text_of(admin_client, page(LedgerEntry, "change", row.pk))
    assert "<pre>{\n  &quot;created_at&quot;" in shown
    assert row.message in shown


def test_a_kind_that_is_gone_and_an_unknown_reason_still_have_a_page(admin_client):
    row = LedgerEntry.objects.create(
        created_at=NOW, kind="gone", run_id="<7>", phase="running", action="fail", reason="of old"
    )
    for url in (page(LedgerEntry), page(LedgerEntry, "change", row.pk)):
        shown = text_of(admin_client, url)
        assert "gone:&lt;7&gt;" in shown
        assert "of old" in shown


def test_a_worker_is_listed_with_what_it_consumes_and_shown_with_what_it_holds(admin_client, records):
    listed = text_of(admin_client, page(WorkerHeartbeat))
    for text in ("celery@w1", "abc", f"{NOW:%Y-%m-%d %H:%M:%S}", "2 or more", "crawl, mail"):
        assert text in listed
    ids = [records[0].task_id, LedgerEntry.objects.get(run_id=records[1].pk).task_id]
    assert not any(task_id in listed for task_id in ids)
    shown = text_of(admin_client, page(WorkerHeartbeat, "change", WorkerHeartbeat.objects.get().pk))
    assert all(task_id in shown for task_id in ids)


def test_what_was_observed_and_switched_is_listed_with_the_names(admin_client, records):
    assert "timed_out: it was running longer than its run timeout" in text_of(admin_client, page(Observation))
    assert "mode dry_run, paused until 2026-03-01 13:00:00 UTC" in text_of(admin_client, page(KindControl))
    listed = text_of(admin_client, page(Exemption))
    assert f"crawl_job:{records[0].pk}" in listed
    assert "ann" in listed


@pytest.mark.parametrize("term", ["{run.pk}", "{run.task_id}", "crawl_job:{run.pk}", " crawl_job:{run.pk} "])
@pytest.mark.parametrize("model", [LedgerEntry, RefusedWrite])
def test_a_run_is_found_by_its_id_or_its_tasks(admin_client, records, model, term):
    shown = text_of(admin_client, page(model), q=term.format(run=records[0]))
    assert str(records[0].pk) in shown
    assert str(records[1].pk) not in shown


@pytest.mark.parametrize(
    ("model", "query", "count"),
    [
        (Sweep, {"kind": "crawl_job"}, 2),
        (Sweep, {"phase": "parents"}, 1),
        (Sweep, {"good": "1"}, 3),
        (Sweep, {"good": "0"}, 0),
        (LedgerEntry, {"kind": "source_result.parent"}, 1),
        (LedgerEntry, {"action": "fail"}, 1),
        (LedgerEntry, {"reason": "manual"}, 1),
        (LedgerEntry, {"q": "nothing like it"}, 0),
        (RefusedWrite, {"kind": "crawl_job"}, 1),
        (Observation, {"reason": "timed_out"}, 1),
        (Observation, {"action": "requeue"}, 0),
        (KindControl, {"kind": "crawl_job"}, 1),
        (Exemption, {"kind": "source_result"}, 0),
    ],
)
def test_lists_are_filtered(admin_client, records, model, query, count):
    assert admin_client.get(page(model), query).context["cl"].result_count == count


@pytest.mark.parametrize("model", MODELS)
def test_what_is_written_down_is_not_added_to_changed_or_deleted(admin_client, records, model):
    row = model.objects.first()
    before = list(model.objects.order_by("pk").values())
    pages = {"add": page(model, "add"), "delete": page(model, "delete", row.pk)}
    orders = {KindControl: {"add"}, Exemption: {"add", "delete"}}.get(model, set())
    for url in (page(model, "change", row.pk), *(pages[each] for each in pages.keys() - orders)):
        assert admin_client.post(url, {"kind": "changed", "post": "yes"}).status_code == 403
    if "delete" not in orders:
        admin_client.post(page(model), {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"})
    assert list(model.objects.order_by("pk").values()) == before


@pytest.mark.parametrize("model", MODELS)
def test_a_page_of_many_rows_asks_no_more_than_one_of_few(admin_client, records, model, django_assert_max_num_queries):
    row = model.objects.order_by("idle" if model is Sweep else "pk").values().first()
    row.pop("id")
    own = {WorkerHeartbeat: "incarnation", Observation: "task_id", Exemption: "run_id"}.get(model)
    many = ({**row, own: str(n)} if own else row for n in range(60))
    model.objects.bulk_create(model(**fields) for fields in many)
    with django_assert_max_num_queries(6):
        text_of(admin_client, page(model))


# --- orders -----------------------------------------------------------------------------------------------------------


def moment(name, at):
    """A form's two fields for a moment."""
    return {f"{name}_0": f"{at:%Y-%m-%d}", f"{name}_1": f"{at:%H:%M:%S}"} if at else {f"{name}_0": "", f"{name}_1": ""}


def switch_to(mode="", paused=None, released=None, kind="crawl_job"):
    return {"kind": kind, "mode": mode, **moment("paused_until", paused), **moment("released_until", released)}


def exemption_of(run, until=None, kind="crawl_job"):
    return {"kind": kind, "run_id": str(run), **moment("until", until)}


def order(client, model, data, *, at=NOW):
    """Fill in the form; return what it complains of, by field."""
    with freeze_time(at):
        response = client.post(page(model, "add"), data)
    if response.status_code == 302:
        return {}
    assert response.status_code == 200
    return response.context["adminform"].form.errors


def state():
    return switches.state_of(conf.adapters()["crawl_job"], NOW)


def test_a_kind_is_switched_in_the_users_name_and_it_is_in_the_history(admin_client, admin_user):
    assert order(admin_client, KindControl, switch_to("dry_run", released=NOW + HOUR)) == {}
    assert state()[:3] == (Mode.DRY_RUN, None, True)
    row = KindControl.objects.get()
    assert (row.actor, row.created_at) == (admin_user.username, NOW)
    entry = LogEntry.objects.get()
    assert (entry.user, entry.object_id, entry.object_repr) == (admin_user, str(row.pk), str(row))
    with freeze_time(NOW):
        running_job(2 * HOUR)
        assert sweeps.sweep(conf.adapters()["crawl_job"], Phase.RUNNING).mode == "dry_run"

    # What is left empty ends.
    assert order(admin_client, KindControl, switch_to()) == {}
    assert state()[:3] == (Mode.ACT, None, False)


def test_a_kind_is_paused_and_the_list_says_so(admin_client):
    assert order(admin_client, KindControl, switch_to(paused=NOW + HOUR)) == {}
    assert state()[:3] == (Mode.OFF, NOW + HOUR, False)
    with freeze_time(NOW):
        assert "paused until 2026" in text_of(admin_client, page(KindControl))
        assert "paused until 2026" in text_of(admin_client, page(KindControl, "change", KindControl.objects.get().pk))


@pytest.mark.parametrize(
    ("until", "refused"), [(-SECOND, True), (0 * SECOND, True), (SECOND, False), (YEAR, False), (YEAR + SECOND, True)]
)
def test_what_has_passed_or_is_more_than_a_year_away_is_refused_and_nothing_is_switched(admin_client, until, refused):
    for name in ("paused", "released"):
        errors = order(admin_client, KindControl, switch_to(**{name: NOW + until}))
        assert errors == (
            {f"{name}_until": [f"{NOW + until:%Y-%m-%d %H:%M:%S} UTC is not within a year from now."]}
            if refused
            else {}
        )
    assert KindControl.objects.count() == (0 if refused else 2)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (switch_to("reap all"), "mode"),
        (switch_to(kind="nobody"), "kind"),
        (switch_to() | {"paused_until_0": "soon"}, "paused_until"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(admin_client, data, field):
    assert set(order(admin_client, KindControl, data)) == {field}
    assert not KindControl.objects.exists()


def test_a_run_is_exempted_and_looked_after_again(admin_client, admin_user):
    run = running_job(2 * HOUR)
    assert order(admin_client, Exemption, exemption_of(f" {str(run.pk).upper()} ", until=NOW + HOUR)) == {}
    row = Exemption.objects.get()
    assert (row.run_id, row.actor, row.until) == (str(run.pk), admin_user.username, NOW + HOUR)
    with freeze_time(NOW):
        assert sweeps.sweep(conf.adapters()["crawl_job"], Phase.RUNNING).counts == {"exempt": 1}
        assert str(run.pk) in text_of(admin_client, page(Exemption))

    assert "already exists" in str(order(admin_client, Exemption, exemption_of(run.pk)))
    assert admin_client.post(page(Exemption, "delete", row.pk), {"post": "yes"}).status_code == 302
    with freeze_time(NOW):
        assert sweeps.sweep(conf.adapters()["crawl_job"], Phase.RUNNING).acted == 1


@pytest.mark.parametrize("run", ["nobody", "00000000-0000-0000-0000-000000000000", "<script>"])
def test_a_run_that_is_not_there_is_not_exempted(admin_client, run):
    assert order(admin_client, Exemption, exemption_of(run)) == {"run_id": [f"There is no crawl_job run {run!r}."]}
    assert not Exemption.objects.exists()


# --- who may ----------------------------------------------------------------------------------------------------------


def user_of(role):
    """A user, or None for nobody."""
    if role == "anonymous":
        return None
    user = User.objects.create_user(role, is_staff=role != "no staff", is_superuser=role == "superuser")
    if role in ("reaps", "no staff"):
        user.user_permissions.add(Permission.objects.get(codename="reap"))
    elif role == "looks":
        user.user_permissions.set(Permission.objects.filter(content_type__app_label="reaper").exclude(codename="reap"))
    return user


@pytest.mark.parametrize("how", ["GET", "POST", "POST without its token"])
@pytest.mark.parametrize("role", ["anonymous", "no staff", "staff", "looks", "reaps", "superuser"])
def test_only_a_post_with_its_token_by_somebody_who_may_reap_changes_anything(role, how):
    """`looks` has every permission on the reaper's tables but this one."""
    run, user, client = running_job(), user_of(role), Client(enforce_csrf_checks=True)
    exemption = Exemption.objects.create(kind="crawl_job", run_id="other", created_at=NOW, actor="ann")
    if user:
        client.force_login(user)
    token = "t" * 32
    client.cookies["csrftoken"] = token
    more = {"csrfmiddlewaretoken": token} if how == "POST" else {}
    orders = (
        (page(KindControl, "add"), switch_to("off")),
        (page(Exemption, "add"), exemption_of(run.pk)),
        (page(Exemption, "delete", exemption.pk), {"post": "yes"}),
    )
    for url, data in orders:
        (client.get if how == "GET" else client.post)(url, data | more)
    changed = (
        KindControl.objects.exists(),
        Exemption.objects.filter(run_id=run.pk).exists(),
        not Exemption.objects.filter(pk=exemption.pk).exists(),
    )
    assert changed == ((role in ("reaps", "superuser") and how == "POST"),) * 3
