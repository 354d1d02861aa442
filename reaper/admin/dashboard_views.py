"""What the dashboard's buttons do: set a kind's recovery mode, its pause and its brake, and switch a schedule."""

from datetime import datetime, timedelta
from typing import Any

from django.apps import apps
from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect

from reaper.admin.access import get_adapter_or_404, require_reap_permission
from reaper.conf import clock
from reaper.controls.modes import set_controls
from reaper.core.policy import Mode

HOUR = timedelta(hours=1)


def redirect_to_dashboard() -> HttpResponse:
    """Go to the dashboard."""
    return redirect("admin:app_list", "reaper")


def control_changes(control: str, now: datetime) -> dict[str, Any] | None:
    """Return the arguments of `set_controls` for a kind's button; None if there is no such button."""
    buttons: dict[str, dict[str, Any]] = {
        **{str(mode): {"mode": mode} for mode in Mode},
        "settings": {"mode": ""},
        "pause": {"paused_until": now + HOUR},
        "resume": {"paused_until": None},
        "lift_brake": {"released_until": now + HOUR},
        "restore_brake": {"released_until": None},
    }
    return buttons.get(control)


@require_reap_permission
def control_kind(request: HttpRequest) -> HttpResponseBase:
    """Apply one of a kind's buttons. Raises Http404 for an unknown kind or button."""
    adapter = get_adapter_or_404(request.POST.get("kind", ""))
    now = clock.now(adapter.using)
    changes = control_changes(request.POST.get("control", ""), now)
    if changes is None:
        raise Http404("There is no such control.")
    row = set_controls(adapter, request.user.get_username(), now, **changes)
    # Start with a word other than the kind, because the admin capitalizes the first one.
    messages.success(request, f"Recovery of {row}.")
    return redirect_to_dashboard()


@require_reap_permission
def set_schedule(request: HttpRequest) -> HttpResponseBase:
    """Enable or disable one of the reaper's schedules. Sending it twice changes nothing more."""
    if not apps.is_installed("django_celery_beat"):
        raise Http404("django_celery_beat is not installed.")
    from reaper import schedules  # needs django_celery_beat's models

    row = schedules.existing_rows().filter(pk=parse_key(request.POST.get("schedule"))).first()
    if row is None:
        raise Http404("There is no such schedule.")
    enabled = request.POST.get("enabled") == "1"
    outcome = "enabled" if enabled else "disabled"
    if row.enabled != enabled:
        row.enabled = enabled
        row.save(update_fields=["enabled", "date_changed"])
        admin.ModelAdmin(type(row), admin.site).log_change(request, row, f"{outcome} in the reaper's dashboard")
    messages.success(request, f"“{row.name}” is {outcome}; Beat follows within 10 s.")
    return redirect_to_dashboard()


def parse_key(text: Any) -> int:
    """Return a form's value as a primary key; 0, which no row has, if it is not a number of 64 bits."""
    return int(text) if str(text).isdecimal() and len(str(text)) < 19 else 0
