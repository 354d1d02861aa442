"""What operators set at run time: modes, policies, and exempted runs."""

from django.db import models


class KindControl(models.Model):
    """How an operator switched one kind of runs: the newest row counts, the others are history. Never changed."""

    kind = models.CharField(max_length=100)
    created_at = models.DateTimeField()
    actor = models.CharField(max_length=200)
    """Who set it."""
    mode = models.CharField(max_length=10, default="", blank=True)
    """A `Mode`; '' for the default from the settings."""
    paused_until = models.DateTimeField(null=True, blank=True)
    """The kind is off until then."""
    released_until = models.DateTimeField(null=True, blank=True)
    """The brake limits nothing until then."""

    class Meta:
        verbose_name = "recovery mode"
        verbose_name_plural = "recovery mode"
        ordering = ("-id",)
        # The only permission that allows changes in the admin: of kinds, policies, and runs.
        permissions = [("reap", "Can switch the reaper, edit its policies, and act on runs")]
        indexes = [models.Index(fields=["kind", "id"], name="reaper_control_latest")]

    def __str__(self) -> str:
        return f"{self.kind}: {self.summary}"

    @property
    def summary(self) -> str:
        """Return the state that it sets, in words."""
        parts = [f"mode {self.mode}" if self.mode else "default mode"]
        for name, until in (("paused", self.paused_until), ("brake lifted", self.released_until)):
            if until and until > self.created_at:
                parts.append(f"{name} until {until:%Y-%m-%d %H:%M:%S %Z}")
        return ", ".join(parts)


class PolicyOverride(models.Model):
    """What operators have set for one kind in place of the settings: the newest row counts, the others are history.

    Never changed.
    """

    kind = models.CharField(max_length=100)
    created_at = models.DateTimeField()
    actor = models.CharField(max_length=200)
    values = models.JSONField(default=dict, blank=True)
    """Lower-case field -> value: seconds, a list of seconds, a number, a word or null. The others are as configured."""
    changes = models.JSONField(default=list, blank=True)
    """What it changed, a sentence each: "run_timeout: 1 h -> 2 h"."""

    class Meta:
        verbose_name = "policy change"
        verbose_name_plural = "policy changes"
        ordering = ("-id",)
        indexes = [models.Index(fields=["kind", "id"], name="reaper_override_latest")]

    def __str__(self) -> str:
        return f"{self.kind}: {self.summary}"

    @property
    def summary(self) -> str:
        """Return what it changed, in one line."""
        return "; ".join(self.changes) or "nothing changed"


class Exemption(models.Model):
    """One run that no sweep acts on, whatever the evidence."""

    kind = models.CharField(max_length=100)
    run_id = models.CharField(max_length=255)
    created_at = models.DateTimeField()
    actor = models.CharField(max_length=200)
    until = models.DateTimeField(null=True, blank=True)
    """When it ends; NULL for no expiry."""

    class Meta:
        verbose_name = "exemption"
        verbose_name_plural = "exempt from recovery"
        ordering = ("-id",)
        constraints = [models.UniqueConstraint(fields=["kind", "run_id"], name="reaper_one_exemption")]

    def __str__(self) -> str:
        return f"{self.kind}:{self.run_id}"
