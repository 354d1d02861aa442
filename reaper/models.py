"""What the reaper remembers: sweeps, the ledger, refused writes, what people switched, and what the workers report."""

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
    seen = models.PositiveIntegerField(default=0)
    acted = models.PositiveIntegerField(default=0)
    moved_on = models.PositiveIntegerField(default=0)
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
    def eventful(self) -> bool:
        """True when the sweep did, put off or refused something, or went wrong."""
        return bool(self.acted or self.finalized or self.moved_on or self.deferred or self.errors)

    @property
    def summary(self) -> str:
        """Return the sweep in one line, for the log and the terminal."""
        parts = (
            [f"{self.seen} seen", f"{self.acted} acted on"]
            if self.mode == "act"
            else [f"{self.mode}: {self.seen} seen"]
        )
        named = {"finalized": self.finalized, "moved on": self.moved_on, "deferred": self.deferred}
        parts += [f"{count} {name}" for name, count in named.items() if count]
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(self.counts.items()))
        return ", ".join(parts) + (f" ({reasons})" if reasons else "") + "".join(f"; {error}" for error in self.errors)


class Reaping(models.Model):
    """One run acted on: the ledger. Written in the transaction that changed the run, so both are there or neither.

    `published_at` is filled once the broker has taken the new task, and `Sweep.revoked_at` once it has taken the
    revokes; a sweep that dies in between leaves them empty, and the next one sends what is missing.
    """

    DISPATCH = "dispatch"  # not the reaper's action: a dispatch by hand, from which budgets are counted anew
    FINALIZE = "finalize"  # a parent was given its outcome
    REOPEN = "reopen"  # a person undid that it was ended
    REVOKE = "revoke"  # a person revoked its task; the run was left as it was

    sweep = models.ForeignKey(Sweep, models.SET_NULL, null=True, blank=True, related_name="reapings")
    at = models.DateTimeField()
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
    unattended_s = models.FloatField(null=True, blank=True)
    # Who asked for it; '' is the reaper itself.
    actor = models.CharField(max_length=200, default="", blank=True)
    published_at = models.DateTimeField(null=True, blank=True)
    # When the host's hook had told the run's owner, where it has one.
    owner_told_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        indexes = [
            models.Index(fields=["kind", "run_id", "id"], name="reaper_reaping_run"),
            models.Index(fields=["at"], name="reaper_reaping_at"),
            models.Index(fields=["kind", "task_id"], condition=~Q(task_id=""), name="reaper_reaping_task"),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.kind}:{self.run_id} ({self.reason})"

    @property
    def unrevoked(self) -> bool:
        """True when the broker has not taken its old task's revoke yet."""
        return bool(self.task_id) and self.sweep is not None and self.sweep.revoked_at is None


class Total(models.Model):
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

    at = models.DateTimeField()
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
        indexes = [models.Index(fields=["at"], name="reaper_observation_at")]

    def __str__(self) -> str:
        return f"would {self.action} {self.kind}:{self.run_id} ({self.reason})"


class Switch(models.Model):
    """How a person switched one kind of runs: the newest row counts, the others are the history. Never changed."""

    kind = models.CharField(max_length=100)
    at = models.DateTimeField()
    # Who did it.
    by = models.CharField(max_length=200)
    # act, observe or off; '' is what the settings say.
    mode = models.CharField(max_length=10, default="", blank=True)
    # Off until then; the brake holds nothing until then.
    paused_until = models.DateTimeField(null=True, blank=True)
    released_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "switches"
        # The one permission to change anything by the admin: kinds, policies, and runs.
        permissions = [("reap", "Can switch the reaper, edit its policies, and act on runs")]
        indexes = [models.Index(fields=["kind", "id"], name="reaper_switch_newest")]

    def __str__(self) -> str:
        return f"{self.kind}: {self.words}"

    @property
    def words(self) -> str:
        """Return the state after it, in words."""
        said = [f"mode {self.mode}" if self.mode else "the settings' mode"]
        for name, until in (("paused", self.paused_until), ("brake released", self.released_until)):
            if until and until > self.at:
                said.append(f"{name} until {until:%Y-%m-%d %H:%M:%S %Z}")
        return ", ".join(said)


class PolicyEdit(models.Model):
    """What people have set for one kind in place of the settings: the newest row counts, the others are the history.

    Never changed.
    """

    kind = models.CharField(max_length=100)
    at = models.DateTimeField()
    by = models.CharField(max_length=200)
    # Lower-case name -> value: seconds, a list of seconds, a number, a word or null. What is not named is as set.
    values = models.JSONField(default=dict, blank=True)
    # What it changed, a sentence each: "run_timeout: 1h -> 2h".
    changes = models.JSONField(default=list, blank=True)

    class Meta:
        ordering = ("-id",)
        indexes = [models.Index(fields=["kind", "id"], name="reaper_policyedit_newest")]

    def __str__(self) -> str:
        return f"{self.kind}: {self.words}"

    @property
    def words(self) -> str:
        """Return what it changed, in one line."""
        return "; ".join(self.changes) or "nothing changed"


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
    says = models.TextField(default="", blank=True)
    acknowledged_by = models.CharField(max_length=200, default="", blank=True)
    # It is told to nobody until then.
    silenced_until = models.DateTimeField(null=True, blank=True)
    # Channel -> "opened" or "resolved": what it was told last.
    told = models.JSONField(default=dict, blank=True)

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


class Exemption(models.Model):
    """One run that is to be left alone, whatever is known of it."""

    kind = models.CharField(max_length=100)
    run_id = models.CharField(max_length=255)
    at = models.DateTimeField()
    by = models.CharField(max_length=200)
    # NULL: for good.
    until = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = [models.UniqueConstraint(fields=["kind", "run_id"], name="reaper_one_exemption")]

    def __str__(self) -> str:
        return f"{self.kind}:{self.run_id}"


class FirstLook(models.Model):
    """A queued run's message was found in no queue, or delivered and not acknowledged.

    Nothing is done on one look: a message on its way is in neither place. A later sweep that finds the same decides.
    """

    kind = models.CharField(max_length=100)
    run_id = models.CharField(max_length=255)
    task_id = models.TextField()
    # absent or delivered
    presence = models.CharField(max_length=20)
    # By the database's clock, after the look.
    at = models.DateTimeField()

    class Meta:
        ordering = ("-at",)
        constraints = [models.UniqueConstraint(fields=["kind", "run_id"], name="reaper_one_first_look")]

    def __str__(self) -> str:
        return f"{self.presence}: {self.kind}:{self.run_id}"


class RefusedWrite(models.Model):
    """A task tried to write to a run that was no longer its own: a late or duplicate task that the fence stopped."""

    at = models.DateTimeField()
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
            models.Index(fields=["at"], name="reaper_refused_at"),
        ]

    def __str__(self) -> str:
        return f"{self.write} of {self.kind}:{self.run_id} by {self.task_id}"


class WorkerReport(models.Model):
    """What one worker last said of itself: it rewrites its row every 3 s for as long as it lives.

    One row per hostname and incarnation: a draining worker and its successor share a hostname.
    """

    hostname = models.CharField(max_length=255)
    incarnation = models.CharField(max_length=32)
    # When it was written, by the database's clock; when the lists were taken, by the worker's own.
    seen_at = models.DateTimeField()
    listed_at = models.DateTimeField()
    # By the database's clock: no report has been missing since.
    since = models.DateTimeField()
    # Task id -> when it began, in seconds since the epoch by the worker's clock.
    active = models.JSONField(default=dict)
    # The ids of all other tasks it holds: reserved, scheduled, rate-limited.
    held = models.JSONField(default=list)
    # The names of the queues it consumes; none while it drains.
    queues = models.JSONField(default=list)
    draining = models.BooleanField(default=False)
    # False: it holds more than it could say, so what is not named may be held all the same.
    complete = models.BooleanField(default=True)
    # By the database's clock: its pool had ended then. NULL for a worker that never said goodbye.
    ended_at = models.DateTimeField(null=True, blank=True)
    # The PostgreSQL session that wrote it, where that is the worker's own: the session ends when the worker does.
    backend_pid = models.IntegerField(null=True, blank=True)
    backend_start = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        # No index on a column that every report changes: its updates then touch no index at all.
        constraints = [models.UniqueConstraint(fields=["hostname", "incarnation"], name="reaper_one_report")]

    def __str__(self) -> str:
        return f"{self.hostname}/{self.incarnation}"
