"""The page of the alerts, which people with the permission `reaper.reap` acknowledge and silence."""

from datetime import timedelta
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from reaper.admin.access import can_reap
from reaper.admin.columns import datetime_column
from reaper.admin.filters import KindFilter, OpenFilter
from reaper.admin.mixins import ReadOnlyAdmin
from reaper.conf import clock
from reaper.models import Alert

SILENCE_DURATION = timedelta(days=1)
"""How long the action "Silence for a day" holds notifications back."""


@admin.register(Alert)
class AlertAdmin(ReadOnlyAdmin):
    """Alerts, open and resolved."""

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
    fields: ClassVar[Any] = (*list_display, datetime_column("seen_at", "last detected at"))
    readonly_fields = fields
    actions = ("acknowledge", "silence")

    def has_reap_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may reap."""
        return can_reap(request.user)

    @admin.action(description="Acknowledge", permissions=["reap"])
    def acknowledge(self, request: HttpRequest, queryset: QuerySet[Alert]) -> None:
        """Record who deals with the alerts; the first one to acknowledge is kept."""
        count = queryset.filter(acknowledged_by="").update(acknowledged_by=request.user.get_username())
        self.message_user(request, f"{count} acknowledged.")

    @admin.action(description="Silence for a day", permissions=["reap"])
    def silence(self, request: HttpRequest, queryset: QuerySet[Alert]) -> None:
        """Send no notification of the alerts for a day, nor of their end."""
        until = clock.now(queryset.db) + SILENCE_DURATION
        self.message_user(request, f"{queryset.update(silenced_until=until)} silenced until {until:%Y-%m-%d %H:%M %Z}.")
