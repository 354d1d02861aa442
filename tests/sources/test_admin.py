"""The host's admin: editing sources, viewing runs and acting on them, and the message shown when the broker is down."""

import json
from datetime import timedelta

import pytest
from celery import current_app
from django.contrib.auth.models import Permission
from django.contrib.messages import get_messages
from django.urls import reverse

from apps.sources.admin import MAX_CHILDREN
from apps.sources.models import CrawlJob, CrawlJobSourceResult, Source
from tests.factories import child, fresh, parent, queued_job, running_job, source
from tests.servers import RedisServer

HOUR = timedelta(hours=1)

pytestmark = [
    pytest.mark.django_db(transaction=True),
    # Static files are collected at deployment only.
    pytest.mark.filterwarnings("ignore:No directory at:UserWarning"),
]


@pytest.fixture(scope="module")
def redis_server():
    server = RedisServer()
    yield server
    server.end()


def publish_to(monkeypatch, url):
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", url)
    # Celery keeps its producers, with the address that they were made for.
    monkeypatch.setattr(current_app.amqp, "_producer_pool", None)


@pytest.fixture(autouse=True)
def broker(redis_server, monkeypatch):
    publish_to(monkeypatch, redis_server.url)
    redis_server.listen()
    yield redis_server
    redis_server.stop_listening()


@pytest.fixture
def no_broker(broker, monkeypatch, tmp_path):
    publish_to(monkeypatch, f"redis+socket://{tmp_path}/nobody.sock")


def page(model, view="changelist", *args):
    return reverse(f"admin:sources_{model._meta.model_name}_{view}", args=args)


def act(client, action, *rows):
    """Choose an action for some rows; return the messages shown."""
    data = {"action": action, "_selected_action": [row.pk for row in rows]}
    response = client.post(page(type(rows[0])), data)
    assert response.status_code == 302
    return " ".join(str(message) for message in get_messages(response.wsgi_request))


@pytest.mark.parametrize("model", [Source, CrawlJob, CrawlJobSourceResult])
def test_admin_pages_open_with_a_bounded_number_of_queries(admin_client, model, django_assert_max_num_queries):
    job = parent("completed", "running", "pending")
    rows = {Source: source(), CrawlJob: running_job(), CrawlJobSourceResult: job.source_results.first()}
    for _ in range(10):
        queued_job()
    with django_assert_max_num_queries(7):
        assert admin_client.get(page(model)).status_code == 200
    assert admin_client.get(page(model, "change", rows[model].pk)).status_code == 200


@pytest.mark.parametrize("term", ["{run.pk}", "{run.task_id}", "{run.source.name}", "nothing"])
@pytest.mark.parametrize("make", [queued_job, lambda: child(parent(), "pending")])
def test_run_search_finds_by_id_task_and_source(admin_client, make, term):
    run = make()
    found = admin_client.get(page(type(run)), {"q": term.format(run=run)}).context["cl"].queryset
    assert list(found) == ([] if term == "nothing" else [run])


@pytest.mark.parametrize("make", [running_job, lambda: child(parent(), "running")])
def test_run_form_post_is_forbidden_and_changes_nothing(admin_client, make):
    run = make()
    before = type(run).objects.values().get(pk=run.pk)
    for view in ("change", "delete"):
        response = admin_client.post(page(type(run), view, run.pk), {"status": "pending", "task_id": "", "post": "yes"})
        assert response.status_code == 403
    assert type(run).objects.values().get(pk=run.pk) == before


def test_parent_page_shows_children_without_input_fields(admin_client):
    job = parent("completed", "failed")
    shown = admin_client.get(page(CrawlJob, "change", job.pk)).content.decode()
    assert "1 completed, 1 failed" in shown
    assert all(page(CrawlJobSourceResult, "change", each.pk) in shown for each in job.source_results.all())
    assert '<input type="text"' not in shown


def test_parent_page_with_thousands_of_children_shows_the_first(admin_client):
    job = parent()
    sites = Source.objects.bulk_create(Source(name=f"site {n}") for n in range(1001))
    CrawlJobSourceResult.objects.bulk_create(CrawlJobSourceResult(crawl_job=job, source=site) for site in sites)
    shown = admin_client.get(page(CrawlJob, "change", job.pk)).content.decode()
    assert "1001 pending" in shown
    assert (
        shown.count(f'href="{page(CrawlJobSourceResult)}') == MAX_CHILDREN + 2
    )  # the links in the navigation and to all of them


def test_added_job_is_dispatched(admin_client, broker):
    data = {"source": source().pk, "config_overrides": '{"max_pages": 3}'}
    assert admin_client.post(page(CrawlJob, "add"), data).status_code == 302
    job = CrawlJob.objects.get()
    assert job.status == "pending"
    assert job.triggered_by == "manual"
    assert job.config_overrides == {"max_pages": 3}
    assert broker.ids() == [job.task_id]


def test_job_without_source_is_refused(admin_client):
    assert admin_client.post(page(CrawlJob, "add"), {"config_overrides": "{}"}).status_code == 200
    assert not CrawlJob.objects.exists()


def test_source_form_saves_changes(admin_client):
    site = source()
    data = {"name": "new", "url": site.url, "status": "paused", "crawler_config": json.dumps({"max_pages": 2})}
    assert admin_client.post(page(Source, "change", site.pk), data).status_code == 302
    assert fresh(site).status == "paused"
    assert fresh(site).crawler_config == {"max_pages": 2}


def test_source_with_runs_is_not_deleted(admin_client):
    job = queued_job()
    admin_client.post(page(Source, "delete", job.source.pk), {"post": "yes"})
    assert CrawlJob.objects.filter(pk=job.pk).exists()


# --- actions ----------------------------------------------------------------------------------------------------------


def test_crawl_now_with_one_source_makes_one_job(admin_client, broker):
    act(admin_client, "crawl_now", source())
    job = CrawlJob.objects.get()
    assert not job.is_multi_source
    assert job.triggered_by == "manual"
    assert broker.ids() == [job.task_id]


def test_crawl_now_with_several_sources_makes_one_parent(admin_client, broker):
    sites = [source(), source()]
    act(admin_client, "crawl_now", *sites)
    job = CrawlJob.objects.get()
    assert {each.source for each in job.source_results.all()} == set(sites)
    assert set(broker.ids()) == set(job.source_results.values_list("task_id", flat=True))


def test_cancel_ends_unfinished_jobs_and_lists_the_others(admin_client, broker):
    job, ended = parent("running"), queued_job(status="completed")
    messages = act(admin_client, "cancel", job, ended)
    assert fresh(job).status == "cancelled"
    assert fresh(job.source_results.get()).status == "skipped"
    assert fresh(ended).status == "completed"
    assert f"1 cancelled: {job.pk}" in messages
    assert f"1 had ended already: {ended.pk}" in messages
    assert [revoke.ids for revoke in broker.revokes()] == [[job.source_results.get().task_id]]


def test_dispatch_again_gives_pending_runs_a_new_task_and_lists_others(admin_client, broker):
    waiting, running, job = queued_job(), running_job(), parent("pending", status="pending")
    messages = act(admin_client, "dispatch_again", waiting, running, job)
    assert fresh(waiting).task_id != waiting.task_id
    assert broker.ids() == [fresh(waiting).task_id]
    assert fresh(running).task_id == running.task_id
    assert fresh(job).task_id == ""
    assert f"1 not pending, so not dispatched: {running.pk}" in messages
    assert f"1 have no task of their own; dispatch their children: {job.pk}" in messages


def test_dispatch_again_of_a_child_gives_it_a_new_task(admin_client, broker):
    one = child(parent(), "pending")
    act(admin_client, "dispatch_again", one)
    assert broker.ids() == [fresh(one).task_id] != [one.task_id]


def test_finalize_sets_the_parents_outcome_and_lists_the_others(admin_client):
    job, still_open = parent("completed", "failed"), parent("running")
    messages = act(admin_client, "finalize", job, still_open)
    assert fresh(job).status == "completed"
    assert fresh(still_open).status == "running"
    assert str(still_open.pk) in messages


@pytest.mark.parametrize("count", [1, 2])
def test_crawl_now_without_broker_shows_a_message(admin_client, no_broker, count):
    assert "The broker did not take the message" in act(admin_client, "crawl_now", *[source() for _ in range(count)])
    assert CrawlJob.objects.get().status == "pending"


def test_other_actions_without_broker_show_one_message(admin_client, no_broker):
    one, two = queued_job(), queued_job()
    messages = act(admin_client, "dispatch_again", one, two)
    assert messages.count("The broker did not take the message") == 1
    assert "1 cancelled" in act(admin_client, "cancel", one)


def test_job_added_without_broker_shows_a_message(admin_client, no_broker):
    response = admin_client.post(page(CrawlJob, "add"), {"source": source().pk, "config_overrides": "{}"}, follow=True)
    assert response.status_code == 200
    assert "The broker did not take the message" in response.content.decode()


def test_user_with_view_permission_only_cannot_act(client, django_user_model):
    user = django_user_model.objects.create_user("ann", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    client.force_login(user)
    job = queued_job()
    assert "dispatch_again" not in client.get(page(CrawlJob)).content.decode()
    client.post(page(CrawlJob), {"action": "cancel", "_selected_action": [job.pk]})
    assert fresh(job).status == "pending"
