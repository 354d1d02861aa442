"""The pages of what the reaper wrote down: they can be read, and not changed."""

from typing import Any, ClassVar

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html

from reaper.admin import run_views as pages
from reaper.admin.mixins import (
    ActionFilter,
    GoodFilter,
    KindFilter,
    PhaseFilter,
    ReadOnlyAdmin,
    ReasonFilter,
    RunOrParentFilter,
    RunRecordAdmin,
    as_json,
    datetime_column,
    in_full,
    sentence,
)
from reaper.core.formatting import format_duration
from reaper.models import LedgerEntry, Observation, RefusedWrite, Sweep, WorkerHeartbeat


@admin.register(Sweep)
class SweepAdmin(ReadOnlyAdmin):
    """What the sweeps did."""

    list_display = (datetime_column("started_at"), "kind", "phase", "went_well", "took", "summary")
    list_filter = (KindFilter, PhaseFilter, GoodFilter, "idle", "started_at")
    fields: ClassVar[Any] = (
        "kind", "phase", "mode", datetime_column("started_at"), datetime_column("finished_at"), "took", "went_well", "scanned", "acted", "finalized",
        "conflicts", "deferred", "counts_by_reason", "errors_shown", "entries",
    )  # fmt: skip
    readonly_fields = fields

    def get_urls(self) -> list[Any]:
        """Add the addresses of the overview's buttons and of the runs' pages."""
        return [*pages.urls(self.admin_site), *super().get_urls()]

    @admin.display(boolean=True)
    def went_well(self, row: Sweep) -> bool | None:
        """Return whether there were no errors; None while it has not ended."""
        return not row.errors if row.finished_at else None

    @admin.display(description="took")
    def took(self, row: Sweep) -> str:
        """Return how long it took."""
        if row.finished_at is None:
            return "has not ended"
        length = row.finished_at - row.started_at
        return format_duration(length) if length.total_seconds() >= 1 else f"{length.total_seconds() * 1000:.0f} ms"

    @admin.display(description="counts by reason")
    def counts_by_reason(self, row: Sweep) -> str:
        """Return the counts with the reasons' sentences."""
        lines = (f"{count:>7,}  {reason}: {sentence(reason)}" for reason, count in sorted(row.counts.items()))
        return format_html("<pre>{}</pre>", "\n".join(lines) or "-")

    @admin.display(description="errors")
    def errors_shown(self, row: Sweep) -> str:
        """Return the errors, one per line."""
        return format_html("<pre>{}</pre>", "\n".join(row.errors)) if row.errors else "-"

    @admin.display(description="entries")
    def entries(self, row: Sweep) -> str:
        """Return the way to the sweep's ledger rows: there may be thousands."""
        page = reverse(f"{self.admin_site.name}:reaper_ledgerentry_changelist")
        return format_html('<a href="{}?sweep__id__exact={}">what it did</a>', page, row.pk)


@admin.register(LedgerEntry)
class LedgerEntryAdmin(RunRecordAdmin):
    """The ledger: what was done to which run, and why."""

    list_display = (datetime_column("created_at"), "run", "action", "why", "actor", "sent")
    list_select_related = ("sweep",)
    list_filter = (RunOrParentFilter, ActionFilter, ReasonFilter, "exhausted", "created_at")
    search_fields = ("run_id__exact", "task_id__exact", "new_task_id__exact")
    search_help_text = "A run's id, KIND:ID, or a task's id, in full."
    fields: ClassVar[Any] = (
        datetime_column("created_at"), "run", "action", "phase", "why", "message", "actor", "task_id", "killed", "revoked",
        "new_task_id", datetime_column("published_at"), "facts_shown", "evidence_shown", "sweep",
    )  # fmt: skip
    readonly_fields = fields

    @admin.display(description="why", ordering="reason")
    def why(self, row: LedgerEntry) -> str:
        """Return the reason with its sentence."""
        spent = " (its budget was spent)" if row.exhausted else ""
        return f"{row.reason}: {sentence(row.reason)}{spent}"

    @admin.display(description="actor")
    def actor(self, row: LedgerEntry) -> str:
        """Return who asked for it."""
        return row.actor or "the reaper"

    @admin.display(description="its task was to be killed")
    def killed(self, row: LedgerEntry) -> str:
        """Return whether the task was to be killed where it runs."""
        return "yes" if row.terminate else "no"

    @admin.display(description="its task was revoked")
    def revoked(self, row: LedgerEntry) -> str:
        """Return when the broker had taken the revokes of its sweep."""
        return "-" if row.owes_revoke or row.sweep is None or not row.task_id else in_full(row.sweep.revoked_at)

    @admin.display(description="sent", boolean=True)
    def sent(self, row: LedgerEntry) -> bool:
        """Return whether the broker has taken all that had to be sent."""
        return not (row.owes_revoke or (row.new_task_id and row.published_at is None))

    @admin.display(description="facts")
    def facts_shown(self, row: LedgerEntry) -> str:
        """Return what the run's row said."""
        return as_json(row.facts)

    @admin.display(description="evidence")
    def evidence_shown(self, row: LedgerEntry) -> str:
        """Return what was known of its task."""
        return as_json(row.evidence)


@admin.register(Observation)
class ObservationAdmin(RunRecordAdmin):
    """What would have been done, had its kind not been switched to observe."""

    list_display = (datetime_column("created_at"), "run", "action", "why")
    list_filter = (RunOrParentFilter, ActionFilter, ReasonFilter, "created_at")
    search_fields = ("run_id__exact", "task_id__exact")
    search_help_text = "A run's id, KIND:ID, or a task's id, in full."
    fields: ClassVar[Any] = (datetime_column("created_at"), "run", "phase", "action", "why", "message", "task_id")
    readonly_fields = fields

    @admin.display(description="why", ordering="reason")
    def why(self, row: Observation) -> str:
        """Return the reason with its sentence."""
        return f"{row.reason}: {sentence(row.reason)}"


@admin.register(RefusedWrite)
class RefusedWriteAdmin(RunRecordAdmin):
    """Writes of late or duplicate tasks that a fence stopped."""

    list_display = (datetime_column("created_at"), "run", "write", "task_id", "worker")
    list_filter = (RunOrParentFilter, "created_at")
    search_fields = ("run_id__exact", "task_id__exact")
    search_help_text = "A run's id, KIND:ID, or a task's id, in full."
    fields: ClassVar[Any] = (datetime_column("created_at"), "run", "write", "task_id", "worker")
    readonly_fields = fields


@admin.register(WorkerHeartbeat)
class WorkerHeartbeatAdmin(ReadOnlyAdmin):
    """What the workers say of themselves."""

    list_display = (
        "hostname",
        "incarnation",
        datetime_column("seen_at"),
        "holding",
        "consumed",
        "draining",
        datetime_column("ended_at"),
    )
    list_filter = ("draining", "complete")
    search_fields = ("hostname__startswith", "incarnation__exact")
    search_help_text = "The beginning of a hostname, or an incarnation in full."
    fields: ClassVar[Any] = (
        "hostname", "incarnation", datetime_column("seen_at"), datetime_column("listed_at"), datetime_column("since"), datetime_column("ended_at"), "draining", "complete",
        "consumed", "holding", "active_shown", "held_shown", "backend_pid", datetime_column("backend_start"),
    )  # fmt: skip
    readonly_fields = fields

    @admin.display(description="tasks held")
    def holding(self, row: WorkerHeartbeat) -> str:
        """Return how many tasks it holds; there may be thousands."""
        return f"{len(row.active) + len(row.held):,}" + ("" if row.complete else " or more")

    @admin.display(description="queues")
    def consumed(self, row: WorkerHeartbeat) -> str:
        """Return the names of the queues it consumes."""
        return ", ".join(map(str, row.queues)) or "-"

    @admin.display(description="running tasks")
    def active_shown(self, row: WorkerHeartbeat) -> str:
        """Return the running tasks with their start."""
        return as_json(row.active)

    @admin.display(description="waiting tasks")
    def held_shown(self, row: WorkerHeartbeat) -> str:
        """Return the other tasks it holds."""
        return as_json(row.held)
