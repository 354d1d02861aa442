"""What the reaper did: its sweeps, the ledger, the counters, and the writes it refused."""

from django.db import models
from django.db.models import Q

from reaper.core.policy import Mode, SweepScope
from reaper.core.sweep_errors import SweepError


class Sweep(models.Model):
    """One pass over one kind and scope.

    Kept when it had an effect. Of the others only the last is kept: one row per kind and scope, marked `idle`, whose
    times move on.
    """

    kind = models.CharField(max_length=100)
    phase = models.CharField(max_length=20, choices=[(scope.value, scope.value) for scope in SweepScope])
    """What it covers: a `SweepScope`."""
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    """When it ended; NULL while it is under way, or when it was cut off."""
    idle = models.BooleanField(default=False)
    """Whether it had no effect, and is the one row that stands for all such sweeps."""
    mode = models.CharField(max_length=10, default=Mode.ACT.value)
    """How its kind was switched when it began: a `Mode`."""
    revoked_at = models.DateTimeField(null=True)
    """When the broker had taken every revoke that follows from it; NULL when not yet, or when it was cut off."""
    counted = models.BooleanField(default=False)
    """Whether what it did is part of the `CounterTotal`s."""
    scanned = models.PositiveIntegerField(default=0)
    """How many runs, or parents, it read."""
    acted = models.PositiveIntegerField(default=0)
    """How many runs it acted on."""
    conflicts = models.PositiveIntegerField(default=0)
    """How many runs it left alone because they had changed since they were read."""
    deferred = models.PositiveIntegerField(default=0)
    """How many runs it left to a later sweep."""
    finalized = models.PositiveIntegerField(default=0)
    """How many parents it completed."""
    counts = models.JSONField(default=dict)
    """Number of runs by reason, those left alone included."""
    errors = models.JSONField(default=list)
    """What went wrong or held it back, each a `SweepError.as_json()`. A sweep without any is a good one."""

    class Meta:
        ordering = ("-started_at", "-id")
        constraints = [
            models.UniqueConstraint(fields=["kind", "phase"], condition=Q(idle=True), name="reaper_one_idle_sweep"),
        ]
        indexes = [
            models.Index(fields=["started_at"], name="reaper_sweep_started"),
            models.Index(fields=["kind", "phase", "started_at"], name="reaper_sweep_latest"),
            models.Index(fields=["id"], condition=Q(counted=False), name="reaper_sweep_uncounted"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.phase} at {self.started_at:%Y-%m-%d %H:%M:%S}"

    @property
    def had_effect(self) -> bool:
        """Return whether the sweep did, deferred or refused something, or went wrong."""
        return bool(self.acted or self.finalized or self.conflicts or self.deferred or self.errors)

    @property
    def recorded_errors(self) -> list[SweepError]:
        """Return `errors` as values."""
        return [SweepError.from_json(each) for each in self.errors]

    @property
    def error_messages(self) -> list[str]:
        """Return the sentences of `errors`."""
        return [error.message for error in self.recorded_errors]

    @property
    def summary(self) -> str:
        """Return the sweep in one line, for the log and the terminal."""
        is_acting = self.mode == Mode.ACT
        parts = [f"{self.scanned} scanned" if is_acting else f"{self.mode}: {self.scanned} scanned"]
        if is_acting:
            parts.append(f"{self.acted} acted on")
        rest = {
            "parents completed": self.finalized,
            "changed concurrently": self.conflicts,
            "deferred": self.deferred,
        }
        parts += [f"{count} {name}" for name, count in rest.items() if count]
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(self.counts.items()))
        sentence = ", ".join(parts) + (f" ({reasons})" if reasons else "")
        return "; ".join([sentence, *self.error_messages])


class LedgerQuerySet(models.QuerySet["LedgerEntry"]):
    """Entries of the ledger. Start with `applied()` to get only what was done."""

    def applied(self) -> "LedgerQuerySet":
        """Return the entries of what was done."""
        return self.filter(applied=True)

    def dry_run(self) -> "LedgerQuerySet":
        """Return the entries of what would have been done in dry-run mode."""
        return self.filter(applied=False)


class LedgerEntry(models.Model):
    """One run acted on: written in the transaction that changed the run, so both are there or neither.

    `published_at` is filled once the broker has taken the new task, and `Sweep.revoked_at` once it has taken the
    revokes; a sweep that dies in between leaves them empty, and the next one sends what is missing.

    In dry-run mode nothing is changed, and the entry records what would have been done: it is not `applied`, belongs to
    no sweep, and exists once per run, task and reason.
    """

    DISPATCH = "dispatch"
    """Not the reaper's action: a person or the host dispatched the run, which resets its budgets."""
    FINALIZE = "finalize"
    """A parent was completed."""
    REOPEN = "reopen"
    """A person undid that the run was ended."""
    REVOKE = "revoke"
    """A person revoked the run's task; the run was left as it was."""

    sweep = models.ForeignKey(Sweep, models.SET_NULL, null=True, blank=True, related_name="entries")
    """The sweep that did it; NULL for a dispatch, for a dry run, and when the sweep was pruned."""
    applied = models.BooleanField(default=True)
    """Whether it was done; otherwise a dry run recorded what would have been done."""
    created_at = models.DateTimeField()
    kind = models.CharField(max_length=100)
    """The adapter's kind; KIND.parent for a parent."""
    run_id = models.CharField(max_length=255)
    """The primary key of the run or parent, as text."""
    phase = models.CharField(max_length=20)
    """The run's `Phase` before."""
    action = models.CharField(max_length=20)
    """An `Action`, or one of the constants above."""
    reason = models.CharField(max_length=50)
    """A `Reason`."""
    exhausted = models.BooleanField(default=False)
    """Whether the run was failed because a budget was used up."""
    interrupted = models.BooleanField(default=False)
    """Whether the run was cut off by its worker's announced shutdown."""
    terminate = models.BooleanField(default=False)
    """Whether its task was to be killed where it was executed."""
    task_id = models.TextField(default="", blank=True)
    """The task that the run had before, and that is revoked."""
    new_task_id = models.TextField(default="", blank=True)
    """The task that the run was given."""
    message = models.TextField(default="", blank=True)
    """The sentence that was written into the run, or would have been."""
    facts = models.JSONField(default=dict)
    """The run's `RunFacts` without the defaults."""
    evidence = models.JSONField(default=dict)
    """The `Evidence` without the defaults."""
    unattended_seconds = models.FloatField(null=True, blank=True)
    """For how many seconds nobody was known to work on the run; NULL if that is not known."""
    actor = models.CharField(max_length=200, default="", blank=True)
    """Who asked for it; '' is the reaper itself."""
    published_at = models.DateTimeField(null=True, blank=True)
    """When the broker had taken `new_task_id`."""
    owner_notified_at = models.DateTimeField(null=True, blank=True)
    """When the host's hook had notified the run's owner, where it has one."""

    objects = LedgerQuerySet.as_manager()

    class Meta:
        verbose_name = "recovery"
        verbose_name_plural = "recovery log"
        ordering = ("-id",)
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "run_id", "task_id", "reason"],
                condition=Q(applied=False),
                name="reaper_one_dry_run_entry",
            ),
        ]
        indexes = [
            models.Index(fields=["kind", "run_id", "id"], name="reaper_ledger_run"),
            models.Index(fields=["created_at"], name="reaper_ledger_created"),
            models.Index(fields=["kind", "task_id"], condition=~Q(task_id=""), name="reaper_ledger_task"),
        ]

    def __str__(self) -> str:
        action = self.action if self.applied else f"would {self.action}"
        return f"{action} {self.kind}:{self.run_id} ({self.reason})"

    @property
    def owes_revoke(self) -> bool:
        """Return whether the broker has not taken the revoke of its old task yet."""
        return bool(self.task_id) and self.sweep is not None and self.sweep.revoked_at is None


class CounterTotal(models.Model):
    """How often something was ever done, including what has been pruned since: exposed to Prometheus."""

    metric = models.CharField(max_length=20)
    """One of the metrics of `ledger/totals.py`."""
    kind = models.CharField(max_length=120)
    label = models.CharField(max_length=50)
    """The action, the upper bound of a recovery time, or the refused write: by the metric."""
    reason = models.CharField(max_length=50, default="", blank=True)
    """The reason of an action; '' for the other metrics."""
    count = models.BigIntegerField(default=0)
    seconds = models.FloatField(default=0)
    """The sum of the recovery times; 0 for the other metrics."""

    class Meta:
        ordering = ("metric", "kind", "label", "reason")
        constraints = [
            models.UniqueConstraint(fields=["metric", "kind", "label", "reason"], name="reaper_one_total"),
        ]

    def __str__(self) -> str:
        return " ".join(filter(None, [self.metric, self.kind, self.label, self.reason])) + f": {self.count}"


class RefusedWrite(models.Model):
    """A task tried to write to a run that was no longer its own: a late or duplicate task that the fence stopped."""

    created_at = models.DateTimeField()
    kind = models.CharField(max_length=100)
    run_id = models.CharField(max_length=255)
    task_id = models.TextField(default="", blank=True)
    worker = models.TextField(default="", blank=True)
    write = models.CharField(max_length=20)
    """What it tried: claim, progress, complete, fail or release."""
    counted = models.BooleanField(default=False)
    """Whether it is part of the `CounterTotal`s."""

    class Meta:
        verbose_name = "rejected late write"
        verbose_name_plural = "rejected late writes"
        ordering = ("-id",)
        indexes = [
            models.Index(fields=["kind", "run_id"], name="reaper_refused_run"),
            models.Index(fields=["created_at"], name="reaper_refused_created"),
            models.Index(fields=["id"], condition=Q(counted=False), name="reaper_refused_uncounted"),
        ]

    def __str__(self) -> str:
        return f"{self.write} of {self.kind}:{self.run_id} by {self.task_id}"
