"""Alerts: what needed attention, from when until when, and who was notified."""

from django.db import models
from django.db.models import Q


class Alert(models.Model):
    """Something was worth a warning: one row from when it was first seen until it had been gone for a while."""

    # long_running, backlog, … (docs/ALERTS.md)
    name = models.CharField(max_length=30)
    # '' where it is about no kind, or no phase.
    kind = models.CharField(max_length=100, blank=True)
    phase = models.CharField(max_length=20, blank=True)
    opened_at = models.DateTimeField()
    seen_at = models.DateTimeField()
    # NULL: it is open.
    resolved_at = models.DateTimeField(null=True, blank=True)
    # The sentence of when it was last seen.
    message = models.TextField(default="", blank=True)
    acknowledged_by = models.CharField(max_length=200, default="", blank=True)
    # It is told to nobody until then.
    silenced_until = models.DateTimeField(null=True, blank=True)
    # Channel -> "opened" or "resolved": what it was told last.
    notified = models.JSONField(default=dict, blank=True)

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
