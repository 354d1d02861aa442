"""Recovery modes, exemptions and policies in the admin: adding a row sets it, in the user's name."""

from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse
from django.utils.html import escape
from freezegun import freeze_time

from reaper.conf import settings as conf
from reaper.controls.modes import state_of
from reaper.controls.overrides import effective_policy, set_overrides
from reaper.core.facts import Phase
from reaper.core.policy import Mode
from reaper.models import Exemption, KindControl, PolicyOverride
from reaper.sweeps.sweep import sweep
from tests.factories import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    fresh,
    held_job,
    running_job,
)
from tests.reaper.admin.pages import (
    exemption_form,
    mode_form,
    page,
    shown_at,
    text_of,
)

YEAR = timedelta(days=366)

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("broker", "limits"),
    pytest.mark.filterwarnings("ignore:No directory at:UserWarning"),
]


def submit(client, model, data, *, at=NOW):
    """Fill in the form; return what it complains of, by field."""
    with freeze_time(at):
        response = client.post(page(model, "add"), data)
    if response.status_code == 302:
        return {}
    assert response.status_code == 200
    return response.context["adminform"].form.errors


def state():
    return state_of(conf.adapters()["crawl_job"], NOW)


def test_mode_form_sets_mode_in_users_name_and_logs_it(admin_client, admin_user):
    assert submit(admin_client, KindControl, mode_form("dry_run", released=NOW + HOUR)) == {}
    assert state()[:3] == (Mode.DRY_RUN, None, True)
    row = KindControl.objects.get()
    assert row.actor == admin_user.username
    assert row.created_at == NOW
    entry = LogEntry.objects.get()
    assert entry.user == admin_user
    assert entry.object_id == str(row.pk)
    assert entry.object_repr == str(row)
    with freeze_time(NOW):
        running_job(2 * HOUR)
        assert sweep(conf.adapters()["crawl_job"], Phase.RUNNING).mode == "dry_run"

    # What is left empty ends.
    assert submit(admin_client, KindControl, mode_form()) == {}
    assert state()[:3] == (Mode.ACT, None, False)


def test_mode_form_with_pause_turns_recovery_off_and_list_shows_it(admin_client):
    assert submit(admin_client, KindControl, mode_form(paused=NOW + HOUR)) == {}
    assert state()[:3] == (Mode.OFF, NOW + HOUR, False)
    with freeze_time(NOW):
        assert "paused until 2026" in shown_at(admin_client, page(KindControl))
        assert "paused until 2026" in shown_at(admin_client, page(KindControl, "change", KindControl.objects.get().pk))


@pytest.mark.parametrize(
    ("until", "refused"), [(-SECOND, True), (0 * SECOND, True), (SECOND, False), (YEAR, False), (YEAR + SECOND, True)]
)
def test_mode_form_with_past_or_far_deadline_is_refused(admin_client, until, refused):
    for name in ("paused", "released"):
        errors = submit(admin_client, KindControl, mode_form(**{name: NOW + until}))
        assert errors == (
            {f"{name}_until": [f"{NOW + until:%Y-%m-%d %H:%M:%S} UTC is not within a year from now."]}
            if refused
            else {}
        )
    assert KindControl.objects.count() == (0 if refused else 2)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (mode_form("reap all"), "mode"),
        (mode_form(kind="nobody"), "kind"),
        (mode_form() | {"paused_until_0": "soon"}, "paused_until"),
    ],
)
def test_mode_form_with_invalid_value_is_refused(admin_client, data, field):
    assert set(submit(admin_client, KindControl, data)) == {field}
    assert not KindControl.objects.exists()


def test_exemption_is_added_and_removed(admin_client, admin_user):
    run = running_job(2 * HOUR)
    assert submit(admin_client, Exemption, exemption_form(f" {str(run.pk).upper()} ", until=NOW + HOUR)) == {}
    row = Exemption.objects.get()
    assert row.run_id == str(run.pk)
    assert row.actor == admin_user.username
    assert row.until == NOW + HOUR
    with freeze_time(NOW):
        assert sweep(conf.adapters()["crawl_job"], Phase.RUNNING).counts == {"exempt": 1}
        assert str(run.pk) in shown_at(admin_client, page(Exemption))

    assert "already exists" in str(submit(admin_client, Exemption, exemption_form(run.pk)))
    assert admin_client.post(page(Exemption, "delete", row.pk), {"post": "yes"}).status_code == 302
    with freeze_time(NOW):
        assert sweep(conf.adapters()["crawl_job"], Phase.RUNNING).acted == 1


@pytest.mark.parametrize("run", ["nobody", "00000000-0000-0000-0000-000000000000", "<script>"])
def test_exemption_of_unknown_run_is_refused(admin_client, run):
    assert submit(admin_client, Exemption, exemption_form(run)) == {"run_id": [f"There is no crawl_job run {run!r}."]}
    assert not Exemption.objects.exists()


def edit(client, kind="crawl_job", **data):
    with freeze_time(NOW):
        return client.post(reverse("admin:reaper_policyoverride_add") + f"?kind={kind}", data, follow=True)


def test_policy_form_saves_in_users_name_and_logs_it(ada):
    response = edit(ada, run_timeout="3h", on_orphan="requeue", base_version="0")
    sentence = (
        "Saved crawl_job: run_timeout: 1 h -> 3 h; on_orphan: fail -> requeue. It takes effect with the next sweep."
    )
    assert [str(each) for each in response.context["messages"]] == [sentence]
    assert escape(sentence) in response.content.decode()
    assert effective_policy(conf.adapters()["crawl_job"]).run_timeout == 3 * HOUR
    assert "run_timeout: 1 h -&gt; 3 h" in ada.get(reverse("admin:reaper_policyoverride_changelist")).content.decode()
    assert LogEntry.objects.get().change_message == "run_timeout: 1 h -> 3 h; on_orphan: fail -> requeue"


def test_policy_form_with_invalid_value_is_refused_and_keeps_input(ada):
    page = edit(ada, run_timeout="1s", max_requeues="3").content.decode()
    assert "run_timeout: expected a duration of at least 12 s, got 1 s. Use 12 s or more." in page
    assert 'value="1s"' in page
    assert not PolicyOverride.objects.exists()


def test_policy_preview_names_runs_and_saves_nothing(ada):
    job = held_job(40 * MINUTE)
    page = text_of(edit(ada, run_timeout="35m", alert_after="20m", _preview="Preview"))
    assert "run_timeout: 1 h -&gt; 35 min; alert_after: 30 min -&gt; 20 min. 1 run would be recovered" in page
    assert f"crawl_job:{job.pk} running fail timed_out" in page
    assert PolicyOverride.objects.count() == 0
    assert fresh(job).status == "running"


def test_policy_form_after_somebody_elses_change_is_refused(ada):
    set_overrides(conf.adapters()["crawl_job"], "bob", NOW, {"run_timeout": 2 * HOUR})
    page = text_of(edit(ada, run_timeout="3h", base_version="0"))
    assert "bob has changed the policy in the meantime. Check it and try again." in page
    assert PolicyOverride.objects.count() == 1


def test_policy_form_of_unknown_kind_is_not_found(ada):
    assert edit(ada, kind="nobody").status_code == 404
