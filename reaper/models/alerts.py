"""Alerts: what needed attention, from when until when, and who was notified."""

from django.db import models
from django.db.models import Q


class Alert(models.Model):
    """A condition that needed attention: one row from its first detection until it had been gone for a while."""

    name = models.CharField(max_length=30)
    """long_running, backlog, … (docs/ALERTS.md)."""
    kind = models.CharField(max_length=100, blank=True)
    """The kind that it is about; '' where it is about none."""
    phase = models.CharField(max_length=20, blank=True)
    """The scope that it is about; '' where it is about none."""
    opened_at = models.DateTimeField()
    seen_at = models.DateTimeField()
    """When its condition was last detected."""
    resolved_at = models.DateTimeField(null=True, blank=True)
    """When it was resolved; NULL while it is open."""
    message = models.TextField(default="", blank=True)
    """What was last detected, in one sentence."""
    acknowledged_by = models.CharField(max_length=200, default="", blank=True)
    silenced_until = models.DateTimeField(null=True, blank=True)
    """No channel is notified before then."""
    notified = models.JSONField(default=dict, blank=True)
    """Channel -> the state that it was last notified of: "opened" or "resolved"."""

    class Meta:
        ordering = ("-id",)
        constraints = [
            models.UniqueConstraint(
                fields=["name", "kind", "phase"], condition=Q(resolved_at=None), name="reaper_one_open_alert"
            ),
        ]
        indexes = [models.Index(fields=["resolved_at"], name="reaper_alert_resolved")]

    def __str__(self) -> str:
        return self.subject

    @property
    def subject(self) -> str:
        """Return what it is about: "long_running crawl_job"."""
        return " ".join(part for part in (self.name, self.kind, self.phase) if part)

    @property
    def state(self) -> str:
        """Return "opened" or "resolved"."""
        return "opened" if self.resolved_at is None else "resolved"
