"""A user in front of the admin: helpers that log in, press the reaper's buttons and read its pages."""

import re

from django.contrib.auth.models import Permission, User
from django.urls import reverse
from django_celery_beat.models import PeriodicTask
from freezegun import freeze_time

from apps.sources import claims
from apps.sources.models import CrawlJob
from reaper.conf import settings as conf
from reaper.core.facts import Phase
from reaper.reports.timeline import state_token
from reaper.sweeps.sweep import sweep
from tests.factories import (
    HOUR,
    NOW,
    fresh,
    queued_job,
)

NOBODY = "00000000-0000-0000-0000-000000000000"
"""The id of no run."""


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


def page(model, view="changelist", *args):
    return reverse(f"admin:reaper_{model._meta.model_name}_{view}", args=args)


def shown_at(client, url, **query):
    response = client.get(url, query)
    assert response.status_code == 200
    return response.content.decode()


def moment(name, at):
    """A form's two fields for a moment."""
    return {f"{name}_0": f"{at:%Y-%m-%d}", f"{name}_1": f"{at:%H:%M:%S}"} if at else {f"{name}_0": "", f"{name}_1": ""}


def mode_form(mode="", paused=None, released=None, kind="crawl_job"):
    return {"kind": kind, "mode": mode, **moment("paused_until", paused), **moment("released_until", released)}


def exemption_form(run, until=None, kind="crawl_job"):
    return {"kind": kind, "run_id": str(run), **moment("until", until)}


def kind_of(run):
    return "crawl_job" if isinstance(run, CrawlJob) else "source_result"


def seen(run):
    return state_token(conf.adapters()[kind_of(run)].get(str(run.pk)))


def press(client, name, at=NOW, **data):
    """Press a button; return the status, or what the next page says."""
    with freeze_time(at):
        response = client.post(reverse(f"admin:reaper_{name}"), data, follow=True)
    if response.status_code != 200:
        return response.status_code
    return " ".join(str(each) for each in response.context["messages"])


def act(client, run, what, **more):
    data = {"kind": kind_of(run), "pk": str(run.pk), "act": what, "state_token": seen(run), **more}
    return press(client, "act", **data)


def text_of(response):
    assert response.status_code == 200
    return " ".join(re.sub(r"<[^>]+>", " ", response.content.decode()).split())


def run_page(client, run, at=NOW):
    with freeze_time(at):
        return client.get(reverse("admin:reaper_run", args=[kind_of(run), run.pk]))


def beat_row():
    return PeriodicTask.objects.get(task="reaper.tasks.sweep_running")


def select_action(client, action, *rows, across=False):
    """Choose an action on the list of jobs; return the page that asks."""
    data = {"action": action, "_selected_action": [row.pk for row in rows], "select_across": "01"[across]}
    return client.post(reverse("admin:sources_crawljob_changelist"), data)


def confirm(client, response):
    """Say yes on the page that asks."""
    context = response.context
    data = {"kind": context["kind"], "act": context["act"], "runs": context["lines"]}
    return press(client, "act_on_runs", **data)


def failed_job():
    """A job that the reaper failed while its task, which nobody heard of, was working on it; and the task's claim."""
    job = queued_job(3 * HOUR)
    with freeze_time(NOW - 2 * HOUR):
        claim = claims.claim(CrawlJob, job.pk, job.task_id, "celery@w1/abc")
    with freeze_time(NOW):
        sweep(conf.adapters()["crawl_job"], Phase.RUNNING)
    assert fresh(job).status == "failed"
    return job, claim
