"""The pages of what operators set at run time: recovery modes, exemptions and policies. Adding a row sets it."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse

from reaper.admin.access import can_reap, get_adapter_or_404
from reaper.admin.columns import datetime_column
from reaper.admin.filters import KindFilter
from reaper.admin.mixins import ReadOnlyAdmin, RunRecordAdmin
from reaper.conf import clock
from reaper.conf import settings as conf
from reaper.controls.exemptions import exempt_run
from reaper.controls.forms import ExemptionForm, KindControlForm, PolicyOverrideForm
from reaper.controls.modes import set_controls
from reaper.controls.overrides import differences, effective_policy
from reaper.core.formatting import format_value
from reaper.models import Exemption, KindControl, PolicyOverride
from reaper.reports.judged import preview_policy

# Runs that the preview of a policy names.
MAX_PREVIEWED = 50


class ControlAdmin(ReadOnlyAdmin):
    """Rows that people with the permission `reaper.reap` add, and that take effect at once. They are never changed."""

    detail_fields: Sequence[Any] = ()
    """The fields of a row that exists."""
    form_fields: Sequence[str] = ()
    """The fields of the form that adds a row."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may reap."""
        return can_reap(request.user)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may view these rows, or may reap."""
        return super().has_view_permission(request, obj) or can_reap(request.user)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fields to show, or those of the form."""
        return self.detail_fields if obj else self.form_fields

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fields that cannot be changed: all of a row that exists."""
        return self.detail_fields if obj else ()


@admin.register(KindControl)
class KindControlAdmin(ControlAdmin):
    """Who set the mode, the pause and the brake of a kind, when, and to what."""

    form = KindControlForm
    list_display = (datetime_column("created_at"), "kind", "summary", "actor")
    list_filter = (KindFilter, "created_at")
    detail_fields = (datetime_column("created_at"), "kind", "summary", "actor")
    form_fields = ("kind", "mode", "paused_until", "released_until")

    def save_model(self, request: HttpRequest, obj: KindControl, form: Any, change: bool) -> None:
        """Set the kind's controls, the same way as the command does."""
        adapter = conf.adapters()[obj.kind]
        values = {name: form.cleaned_data[name] for name in self.form_fields if name != "kind"}
        row = set_controls(adapter, request.user.get_username(), clock.now(adapter.using), **values)
        copy_saved(row, obj)


@admin.register(Exemption)
class ExemptionAdmin(ControlAdmin, RunRecordAdmin):
    """The runs that are exempt from recovery. Deleting a row removes the exemption."""

    form = ExemptionForm
    form_fields = ("kind", "run_id", "until")
    detail_fields = (datetime_column("created_at"), "run", "actor", datetime_column("until"))
    list_display = (datetime_column("created_at"), "run", "actor", datetime_column("until"))
    list_filter = (KindFilter, "created_at")
    search_fields = ("run_id__exact",)
    search_help_text = "A run's id, or KIND:ID, in full."

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may reap."""
        return can_reap(request.user)

    def save_model(self, request: HttpRequest, obj: Exemption, form: Any, change: bool) -> None:
        """Exempt the run, the same way as the command does."""
        adapter = conf.adapters()[obj.kind]
        row = exempt_run(adapter, obj.run_id, request.user.get_username(), clock.now(adapter.using), obj.until)
        copy_saved(row, obj)


def copy_saved(row: KindControl | Exemption, obj: KindControl | Exemption) -> None:
    """Copy the saved row into `obj`, which Django logs and redirects to."""
    obj.pk = row.pk
    obj.created_at = row.created_at
    obj.actor = row.actor


@admin.register(PolicyOverride)
class PolicyOverrideAdmin(ControlAdmin):
    """Who changed the policy of a kind, when and how."""

    list_display = (datetime_column("created_at"), "kind", "summary", "actor")
    list_filter = (KindFilter, "created_at")
    detail_fields = (datetime_column("created_at"), "kind", "summary", "actor")

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """Show a kind's policy, preview a changed one, or save it. Raises Http404 for an unknown kind."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        adapter = get_adapter_or_404(request.GET.get("kind", next(iter(conf.adapters()))))
        form = PolicyOverrideForm(adapter, request.POST or None)
        is_valid = request.method == "POST" and form.is_valid()
        if is_valid and "_preview" not in request.POST:
            return self.save_policy(request, form)
        context = {
            **self.admin_site.each_context(request),
            **form_context(form),
            **(preview_context(form) if is_valid else {}),
            "title": f"The policy of {adapter.kind}",
            "opts": self.opts,
        }
        return TemplateResponse(request, "admin/reaper/policyoverride/edit.html", context)

    def save_policy(self, request: HttpRequest, form: PolicyOverrideForm) -> HttpResponse:
        """Save the policy, log it, and go to the dashboard."""
        row = form.save(request.user.get_username())
        self.log_addition(request, row, row.summary)
        self.message_user(request, f"Saved {row}. It takes effect with the next sweep.")
        return redirect(f"{self.admin_site.name}:app_list", "reaper")


def form_context(form: PolicyOverrideForm) -> dict[str, Any]:
    """Return the template's context for the form: each field with its effective value, and where that comes from."""
    fields = [
        {"field": form[name], "value": format_value(each.value), "source": each.source}
        for name, each in form.effective.items()
        if name in form.fields
    ]
    return {"kind": form.adapter.kind, "kinds": list(conf.adapters()), "form": form, "fields": fields}


def preview_context(form: PolicyOverrideForm) -> dict[str, Any]:
    """Return the template's context for the preview: what the form's policy would do with the runs of this moment."""
    return {
        "preview": preview_policy(form.adapter, form.policy, MAX_PREVIEWED),
        "changes": differences(effective_policy(form.adapter), form.policy),
    }
