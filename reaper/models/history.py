"""What the reaper did: its sweeps, the ledger, the counters, and the writes it refused."""

from django.db import models
from django.db.models import Q


class Sweep(models.Model):
    """One pass over one kind and phase.

    Kept when it did or refused something. Of the others only the last is kept: one row per kind and phase, marked
    `idle`, whose times move on.
    """

    kind = models.CharField(max_length=100)
    # queued, running or parents; by_hand for what a person asked for, which is no sweep
    phase = models.CharField(max_length=20)
    started_at = models.DateTimeField()
    # NULL: still under way, or cut off.
    finished_at = models.DateTimeField(null=True)
    idle = models.BooleanField(default=False)
    # act, observe or off: how its kind was switched when it began.
    mode = models.CharField(max_length=10, default="act")
    # When the broker had taken every revoke that follows from it. NULL: not yet, or it was cut off.
    revoked_at = models.DateTimeField(null=True)
    # How many runs were looked at, acted on, found changed since they were read, put off to a later sweep.
    scanned = models.PositiveIntegerField(default=0)
    acted = models.PositiveIntegerField(default=0)
    conflicts = models.PositiveIntegerField(default=0)
    deferred = models.PositiveIntegerField(default=0)
    # How many parents were given their outcome.
    finalized = models.PositiveIntegerField(default=0)
    # reason -> number of runs that were decided so, LEAVE included.
    counts = models.JSONField(default=dict)
    # Sentences; a sweep without any is a good one.
    errors = models.JSONField(default=list)

    class Meta:
        ordering = ("-started_at", "-id")
        constraints = [
            models.UniqueConstraint(fields=["kind", "phase"], condition=Q(idle=True), name="reaper_one_idle_sweep"),
        ]
        indexes = [
            models.Index(fields=["started_at"], name="reaper_sweep_started"),
            models.Index(fields=["kind", "phase", "started_at"], name="reaper_sweep_latest"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.phase} at {self.started_at:%Y-%m-%d %H:%M:%S}"

    @property
    def had_effect(self) -> bool:
        """True when the sweep did, put off or refused something, or went wrong."""
        return bool(self.acted or self.finalized or self.conflicts or self.deferred or self.errors)

    @property
    def summary(self) -> str:
        """Return the sweep in one line, for the log and the terminal."""
        parts = (
            [f"{self.scanned} seen", f"{self.acted} acted on"]
            if self.mode == "act"
            else [f"{self.mode}: {self.scanned} seen"]
        )
        named = {"finalized": self.finalized, "moved on": self.conflicts, "deferred": self.deferred}
        parts += [f"{count} {name}" for name, count in named.items() if count]
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(self.counts.items()))
        return ", ".join(parts) + (f" ({reasons})" if reasons else "") + "".join(f"; {error}" for error in self.errors)


class LedgerEntry(models.Model):
    """One run acted on: the ledger. Written in the transaction that changed the run, so both are there or neither.

    `published_at` is filled once the broker has taken the new task, and `Sweep.revoked_at` once it has taken the
    revokes; a sweep that dies in between leaves them empty, and the next one sends what is missing.
    """

    DISPATCH = "dispatch"  # not the reaper's action: a dispatch by hand, from which budgets are counted anew
    FINALIZE = "finalize"  # a parent was given its outcome
    REOPEN = "reopen"  # a person undid that it was ended
    REVOKE = "revoke"  # a person revoked its task; the run was left as it was

    sweep = models.ForeignKey(Sweep, models.SET_NULL, null=True, blank=True, related_name="entries")
    created_at = models.DateTimeField()
    kind = models.CharField(max_length=100)
    run_id = models.CharField(max_length=255)
    phase = models.CharField(max_length=20)
    action = models.CharField(max_length=20)
    reason = models.CharField(max_length=50)
    exhausted = models.BooleanField(default=False)
    interrupted = models.BooleanField(default=False)
    terminate = models.BooleanField(default=False)
    # The task that the run had when it was acted on, and the one that it was given.
    task_id = models.TextField(default="", blank=True)
    new_task_id = models.TextField(default="", blank=True)
    message = models.TextField(default="", blank=True)
    facts = models.JSONField(default=dict)
    evidence = models.JSONField(default=dict)
    # For how many seconds nobody was known to work on the run then; NULL where nothing tells.
    unattended_seconds = models.FloatField(null=True, blank=True)
    # Who asked for it; '' is the reaper itself.
    actor = models.CharField(max_length=200, default="", blank=True)
    published_at = models.DateTimeField(null=True, blank=True)
    # When the host's hook had told the run's owner, where it has one.
    owner_notified_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        indexes = [
            models.Index(fields=["kind", "run_id", "id"], name="reaper_ledger_run"),
            models.Index(fields=["created_at"], name="reaper_ledger_created"),
            models.Index(fields=["kind", "task_id"], condition=~Q(task_id=""), name="reaper_ledger_task"),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.kind}:{self.run_id} ({self.reason})"

    @property
    def owes_revoke(self) -> bool:
        """True when the broker has not taken its old task's revoke yet."""
        return bool(self.task_id) and self.sweep is not None and self.sweep.revoked_at is None


class CounterTotal(models.Model):
    """What pruned rows had been counted as: what is counted since the beginning never falls (`totals.py`)."""

    metric = models.CharField(max_length=20)
    kind = models.CharField(max_length=120)
    label = models.CharField(max_length=100)
    count = models.BigIntegerField(default=0)
    seconds = models.FloatField(default=0)

    class Meta:
        ordering = ("metric", "kind", "label")
        constraints = [models.UniqueConstraint(fields=["metric", "kind", "label"], name="reaper_one_total")]

    def __str__(self) -> str:
        return f"{self.metric} {self.kind} {self.label}: {self.count}"


class Observation(models.Model):
    """What would have been done with a run, had its kind not been switched to observe: once per task and reason."""

    created_at = models.DateTimeField()
    kind = models.CharField(max_length=100)
    run_id = models.CharField(max_length=255)
    task_id = models.TextField(default="", blank=True)
    phase = models.CharField(max_length=20)
    action = models.CharField(max_length=20)
    reason = models.CharField(max_length=50)
    message = models.TextField(default="", blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = [
            models.UniqueConstraint(fields=["kind", "run_id", "task_id", "reason"], name="reaper_one_observation"),
        ]
        indexes = [models.Index(fields=["created_at"], name="reaper_observation_created")]

    def __str__(self) -> str:
        return f"would {self.action} {self.kind}:{self.run_id} ({self.reason})"


class RefusedWrite(models.Model):
    """A task tried to write to a run that was no longer its own: a late or duplicate task that the fence stopped."""

    created_at = models.DateTimeField()
    kind = models.CharField(max_length=100)
    run_id = models.CharField(max_length=255)
    task_id = models.TextField(default="", blank=True)
    worker = models.TextField(default="", blank=True)
    # claim, progress, complete, fail or release
    write = models.CharField(max_length=20)

    class Meta:
        ordering = ("-id",)
        indexes = [
            models.Index(fields=["kind", "run_id"], name="reaper_refused_run"),
            models.Index(fields=["created_at"], name="reaper_refused_created"),
        ]

    def __str__(self) -> str:
        return f"{self.write} of {self.kind}:{self.run_id} by {self.task_id}"
