"""Who may do what in the admin: changes need a POST with its token, and the permission `reaper.reap`."""

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from reaper.models import Exemption, KindControl, PolicyOverride
from tests.factories import (
    HOUR,
    NOW,
    fresh,
    running_job,
)
from tests.reaper.admin.pages import (
    beat_row,
    exemption_form,
    mode_form,
    page,
    run_page,
    seen,
    user_of,
)

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("broker", "limits"),
    pytest.mark.filterwarnings("ignore:No directory at:UserWarning"),
]


@pytest.mark.parametrize("how", ["GET", "POST", "POST without its token"])
@pytest.mark.parametrize("role", ["anonymous", "no staff", "staff", "looks", "reaps", "superuser"])
def test_controls_change_only_by_post_with_token_and_permission(role, how):
    """`looks` has every permission on the reaper's tables but this one."""
    run, user, client = running_job(), user_of(role), Client(enforce_csrf_checks=True)
    exemption = Exemption.objects.create(kind="crawl_job", run_id="other", created_at=NOW, actor="ann")
    if user:
        client.force_login(user)
    token = "t" * 32
    client.cookies["csrftoken"] = token
    more = {"csrfmiddlewaretoken": token} if how == "POST" else {}
    requests = (
        (page(KindControl, "add"), mode_form("off")),
        (page(Exemption, "add"), exemption_form(run.pk)),
        (page(Exemption, "delete", exemption.pk), {"post": "yes"}),
    )
    for url, data in requests:
        (client.get if how == "GET" else client.post)(url, data | more)
    changed = (
        KindControl.objects.exists(),
        Exemption.objects.filter(run_id=run.pk).exists(),
        not Exemption.objects.filter(pk=exemption.pk).exists(),
    )
    assert changed == ((role in ("reaps", "superuser") and how == "POST"),) * 3


@pytest.mark.parametrize("how", ["GET", "POST", "POST without its token"])
@pytest.mark.parametrize("role", ["anonymous", "no staff", "staff", "looks", "reaps", "superuser"])
@pytest.mark.usefixtures("schedules")
def test_buttons_work_only_by_post_with_token_and_permission(role, how):
    first, second = running_job(HOUR), running_job(HOUR)
    user, client = user_of(role), Client(enforce_csrf_checks=True)
    if user:
        client.force_login(user)
    token = "t" * 32
    client.cookies["csrftoken"] = token
    more = {"csrfmiddlewaretoken": token} if how == "POST" else {}
    requests = {
        "control": {"kind": "crawl_job", "control": "off"},
        "schedule": {"schedule": beat_row().pk, "enabled": "0"},
        "act": {"kind": "crawl_job", "pk": str(first.pk), "act": "fail", "state_token": seen(first)},
        "act_on_runs": {"kind": "crawl_job", "act": "fail", "runs": f"{second.pk} {seen(second)}"},
        "policyoverride_add": {"run_timeout": "3h"},
    }
    for name, data in requests.items():
        (client.get if how == "GET" else client.post)(reverse(f"admin:reaper_{name}"), data | more)
    changed = (
        KindControl.objects.exists(),
        not beat_row().enabled,
        fresh(first).status == "failed",
        fresh(second).status == "failed",
        PolicyOverride.objects.exists(),
    )
    assert changed == ((role in ("reaps", "superuser") and how == "POST"),) * 5


@pytest.mark.parametrize("name", ["control", "schedule", "act", "act_on_runs"])
@pytest.mark.parametrize("method", ["get", "put", "delete"])
def test_button_without_post_answers_405(ada, name, method):
    assert getattr(ada, method)(reverse(f"admin:reaper_{name}")).status_code == 405


@pytest.mark.parametrize("role", ["staff", "looks", "reaps"])
def test_list_actions_are_offered_only_with_permission(client, role):

    user = user_of(role)
    user.user_permissions.add(Permission.objects.get(codename="view_crawljob"))
    client.force_login(user)
    running_job()
    page = client.get(reverse("admin:sources_crawljob_changelist")).content.decode()
    assert ("reaper_fail" in page) == (role == "reaps")


def test_run_page_is_shown_only_with_permission(client):
    job = running_job()
    for role, status in (("staff", 403), ("looks", 200), ("reaps", 200)):
        client.force_login(user_of(role))
        assert run_page(client, job).status_code == status
