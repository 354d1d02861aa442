"""The pages of what people order: who has the permission `reaper.reap` may switch, exempt and edit policies."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, ClassVar

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse

from reaper.admin.mixins import KindFilter, OpenFilter, ReadOnlyAdmin, RunRecordAdmin, datetime_column
from reaper.conf import clock
from reaper.conf import settings as conf
from reaper.controls import modes as switches
from reaper.controls import overrides as policies
from reaper.controls.exemptions import exempt_run
from reaper.controls.forms import ExemptionForm, KindControlForm, PolicyOverrideForm
from reaper.core.formatting import format_value
from reaper.models import Alert, Exemption, KindControl, PolicyOverride
from reaper.reports import diagnosis as reports

# Runs that a preview names.
PREVIEWED = 50


class ControlAdmin(ReadOnlyAdmin):
    """Records that people with the permission `reaper.reap` may add: what they order takes effect at once."""

    shown: Sequence[Any] = ()
    asked: Sequence[str] = ()

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may reap."""
        return request.user.has_perm("reaper.reap")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may look, or reap."""
        return super().has_view_permission(request, obj) or self.has_add_permission(request)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return what is shown of a record, or asked for a new one."""
        return self.shown if obj else self.asked

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return what cannot be changed: everything that is there."""
        return self.shown if obj else ()


@admin.register(KindControl)
class KindControlAdmin(ControlAdmin):
    """Who switched a kind of runs, when, and how; a new record switches it."""

    form = KindControlForm
    list_display = (datetime_column("created_at"), "kind", "summary", "actor")
    list_filter = (KindFilter, "created_at")
    shown = (datetime_column("created_at"), "kind", "summary", "actor")
    asked = ("kind", "mode", "paused_until", "released_until")

    def save_model(self, request: HttpRequest, obj: KindControl, form: Any, change: bool) -> None:
        """Switch the kind, by the way that the command takes as well."""
        adapter = conf.adapters()[obj.kind]
        orders = {name: form.cleaned_data[name] for name in self.asked if name != "kind"}
        row = switches.set_controls(adapter, request.user.get_username(), clock.now(adapter.using), **orders)
        obj.pk, obj.created_at, obj.actor = row.pk, row.created_at, row.actor


@admin.register(Exemption)
class ExemptionAdmin(ControlAdmin, RunRecordAdmin):
    """The runs that are to be left alone; a new record exempts one, and without it the run is looked after again."""

    form = ExemptionForm
    asked = ("kind", "run_id", "until")
    shown = (datetime_column("created_at"), "run", "actor", datetime_column("until"))
    list_display = (datetime_column("created_at"), "run", "actor", datetime_column("until"))
    list_filter = (KindFilter, "created_at")
    search_fields = ("run_id__exact",)
    search_help_text = "A run's id, or KIND:ID, in full."

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may reap."""
        return self.has_add_permission(request)

    def save_model(self, request: HttpRequest, obj: Exemption, form: Any, change: bool) -> None:
        """Exempt the run, by the way that the command takes as well."""
        adapter = conf.adapters()[obj.kind]
        now = clock.now(adapter.using)
        row = exempt_run(adapter, obj.run_id, request.user.get_username(), now, obj.until)
        obj.pk, obj.created_at, obj.actor = row.pk, row.created_at, row.actor


@admin.register(PolicyOverride)
class PolicyOverrideAdmin(ControlAdmin):
    """Who edited the thresholds of a kind, when, and what that changed; a new record edits them."""

    list_display = (datetime_column("created_at"), "kind", "summary", "actor")
    list_filter = (KindFilter, "created_at")
    shown = (datetime_column("created_at"), "kind", "summary", "actor")

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """Show the thresholds of a kind, preview edited ones, or have them count from the next sweep on."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        adapters = conf.adapters()
        kind = request.GET.get("kind", next(iter(adapters)))
        if kind not in adapters:
            raise Http404(f"There is no kind {kind!r}.")
        form, found = PolicyOverrideForm(adapters[kind], request.POST or None), None
        if request.method == "POST" and form.is_valid():
            if "_preview" not in request.POST:
                row = form.save(request.user.get_username())
                self.log_addition(request, row, row.summary)
                self.message_user(request, f"Edited {row}. This counts from the next sweep on.")
                return redirect(f"{self.admin_site.name}:app_list", "reaper")
            found = reports.preview(adapters[kind], form.policy, PREVIEWED)
        context = {
            **self.admin_site.each_context(request),
            "title": f"The thresholds of {kind}",
            "opts": self.opts,
            "kind": kind,
            "kinds": list(adapters),
            "form": form,
            "fields": [
                (form[name], format_value(each.value), each.source)
                for name, each in form.effective.items()
                if name in form.fields
            ],
            "preview": found,
            "changes": policies.differences(policies.effective_policy(adapters[kind]), form.policy) if found else [],
        }
        return TemplateResponse(request, "admin/reaper/policyoverride/edit.html", context)


@admin.register(Alert)
class AlertAdmin(ReadOnlyAdmin):
    """What was worth a warning, and whether somebody has seen it. Who may reap acknowledges and silences it."""

    list_display = (
        datetime_column("opened_at"),
        "subject",
        "message",
        "state",
        datetime_column("resolved_at"),
        "acknowledged_by",
        datetime_column("silenced_until"),
    )
    list_filter = (OpenFilter, KindFilter, "name")
    fields: ClassVar[Any] = (*list_display, datetime_column("seen_at"))
    readonly_fields = fields
    actions = ("acknowledge", "silence")

    def has_reap_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may reap."""
        return request.user.has_perm("reaper.reap")

    @admin.action(description="Acknowledge", permissions=["reap"])
    def acknowledge(self, request: HttpRequest, queryset: QuerySet[Alert]) -> None:
        """Say that somebody deals with it; whoever was first is kept."""
        count = queryset.filter(acknowledged_by="").update(acknowledged_by=request.user.get_username())
        self.message_user(request, f"{count} acknowledged.")

    @admin.action(description="Silence for a day", permissions=["reap"])
    def silence(self, request: HttpRequest, queryset: QuerySet[Alert]) -> None:
        """Tell nobody of it for a day, also not that it is over."""
        until = clock.now(queryset.db) + timedelta(days=1)
        self.message_user(request, f"{queryset.update(silenced_until=until)} silenced.")
