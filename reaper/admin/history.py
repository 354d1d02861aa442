"""The pages of the reaper's records: sweeps, the recovery log, rejected late writes, workers. All are read-only."""

from typing import Any, ClassVar

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html

from reaper.admin.columns import datetime_column, describe_reason, format_timestamp, json_block, preformatted
from reaper.admin.filters import (
    ActionFilter,
    AppliedFilter,
    KindFilter,
    PhaseFilter,
    ReasonFilter,
    RunOrParentFilter,
    SuccessFilter,
)
from reaper.admin.mixins import ReadOnlyAdmin, RunRecordAdmin
from reaper.admin.urls import extra_urls
from reaper.core.formatting import format_duration
from reaper.models import LedgerEntry, RefusedWrite, Sweep, WorkerHeartbeat

RUN_SEARCH_HELP = "A run's id, KIND:ID, or a task's id, in full."


@admin.register(Sweep)
class SweepAdmin(ReadOnlyAdmin):
    """The sweeps that did something, or had problems, and the last one of every kind and phase."""

    list_display = (datetime_column("started_at"), "kind", "phase", "succeeded", "duration", "summary")
    list_filter = (KindFilter, PhaseFilter, SuccessFilter, "idle", "started_at")
    fields: ClassVar[Any] = (
        "kind",
        "phase",
        "mode",
        datetime_column("started_at"),
        datetime_column("finished_at"),
        "duration",
        "succeeded",
        "scanned",
        "acted",
        "finalized",
        "conflicts",
        "deferred",
        "counts_by_reason",
        "problems",
        "entries",
    )
    readonly_fields = fields

    def get_urls(self) -> list[Any]:
        """Add the URLs of the dashboard's buttons and of the pages of runs."""
        return [*extra_urls(self.admin_site), *super().get_urls()]

    @admin.display(boolean=True)
    def succeeded(self, row: Sweep) -> bool | None:
        """Return whether it had no problems; None until it has finished."""
        return not row.errors if row.finished_at else None

    @admin.display(description="duration")
    def duration(self, row: Sweep) -> str:
        """Return how long it took, in ms below 1 s."""
        if row.finished_at is None:
            return "not finished"
        elapsed = row.finished_at - row.started_at
        return format_duration(elapsed) if elapsed.total_seconds() >= 1 else f"{elapsed.total_seconds() * 1000:.0f} ms"

    @admin.display(description="runs by reason")
    def counts_by_reason(self, row: Sweep) -> str:
        """Return how many runs had each reason, one line per reason."""
        lines = (f"{count:>7,}  {describe_reason(reason)}" for reason, count in sorted(row.counts.items()))
        return preformatted("\n".join(lines))

    @admin.display(description="problems")
    def problems(self, row: Sweep) -> str:
        """Return the problems, one per line."""
        return preformatted("\n".join(row.error_messages))

    @admin.display(description="recoveries")
    def entries(self, row: Sweep) -> str:
        """Return a link to the sweep's ledger entries, of which there may be thousands."""
        page = reverse(f"{self.admin_site.name}:reaper_ledgerentry_changelist")
        return format_html('<a href="{}?sweep__id__exact={}">in the recovery log</a>', page, row.pk)


@admin.register(LedgerEntry)
class LedgerEntryAdmin(RunRecordAdmin):
    """The recovery log: what was done to which run, or would have been in a dry run, by whom and why."""

    list_display = (datetime_column("created_at"), "run", "what", "why", "requested_by", "is_sent")
    list_select_related = ("sweep",)
    list_filter = (AppliedFilter, RunOrParentFilter, ActionFilter, ReasonFilter, "exhausted", "created_at")
    search_fields = ("run_id__exact", "task_id__exact", "new_task_id__exact")
    search_help_text = RUN_SEARCH_HELP
    fields: ClassVar[Any] = (
        datetime_column("created_at"),
        "run",
        "what",
        "phase",
        "why",
        "message",
        "requested_by",
        "task_id",
        "terminated",
        "revoked",
        "new_task_id",
        datetime_column("published_at"),
        "facts_shown",
        "evidence_shown",
        "sweep",
    )
    readonly_fields = fields

    @admin.display(description="action", ordering="action")
    def what(self, row: LedgerEntry) -> str:
        """Return the action; in a dry run, the one that would have been taken."""
        return row.action if row.applied else f"would {row.action} (dry run)"

    @admin.display(description="reason", ordering="reason")
    def why(self, row: LedgerEntry) -> str:
        """Return the reason, and whether the run's requeues were used up."""
        return describe_reason(row.reason) + (" (no requeues left)" if row.exhausted else "")

    @admin.display(description="requested by", ordering="actor")
    def requested_by(self, row: LedgerEntry) -> str:
        """Return the user, or that the reaper did it by itself."""
        return row.actor or "the reaper"

    @admin.display(description="old task terminated")
    def terminated(self, row: LedgerEntry) -> str:
        """Return whether the revoke also terminates the old task where it runs."""
        return "yes" if row.terminate else "no"

    @admin.display(description="old task revoked at")
    def revoked(self, row: LedgerEntry) -> str:
        """Return when the broker had taken the revokes of its sweep."""
        has_revoke = row.task_id and row.sweep is not None and not row.owes_revoke
        return format_timestamp(row.sweep.revoked_at) if has_revoke and row.sweep else "-"

    @admin.display(description="sent", boolean=True)
    def is_sent(self, row: LedgerEntry) -> bool | None:
        """Return whether the broker has taken every message that the entry owes; None for a dry run."""
        if not row.applied:
            return None
        return not (row.owes_revoke or (row.new_task_id and row.published_at is None))

    @admin.display(description="facts")
    def facts_shown(self, row: LedgerEntry) -> str:
        """Return the run's facts as they were read from its row."""
        return json_block(row.facts)

    @admin.display(description="evidence")
    def evidence_shown(self, row: LedgerEntry) -> str:
        """Return the evidence on its task."""
        return json_block(row.evidence)


@admin.register(RefusedWrite)
class RefusedWriteAdmin(RunRecordAdmin):
    """Writes of late or duplicate tasks, which the fence rejected."""

    list_display = (datetime_column("created_at"), "run", "write", "task_id", "worker")
    list_filter = (RunOrParentFilter, "created_at")
    search_fields = ("run_id__exact", "task_id__exact")
    search_help_text = RUN_SEARCH_HELP
    fields: ClassVar[Any] = (datetime_column("created_at"), "run", "write", "task_id", "worker")
    readonly_fields = fields


@admin.register(WorkerHeartbeat)
class WorkerHeartbeatAdmin(ReadOnlyAdmin):
    """The last heartbeat of every worker."""

    list_display = (
        "hostname",
        "incarnation",
        datetime_column("seen_at", "last heartbeat"),
        "task_count",
        "consumes",
        "draining",
        datetime_column("ended_at", "shut down at"),
    )
    list_filter = ("draining", "complete")
    search_fields = ("hostname__startswith", "incarnation__exact")
    search_help_text = "The beginning of a hostname, or an incarnation in full."
    fields: ClassVar[Any] = (
        "hostname",
        "incarnation",
        datetime_column("seen_at", "last heartbeat"),
        datetime_column("listed_at", "tasks listed at"),
        datetime_column("since", "reporting since"),
        datetime_column("ended_at", "shut down at"),
        "draining",
        "complete",
        "consumes",
        "task_count",
        "running_tasks",
        "reserved_tasks",
        "backend_pid",
        datetime_column("backend_start"),
    )
    readonly_fields = fields

    @admin.display(description="tasks")
    def task_count(self, row: WorkerHeartbeat) -> str:
        """Return how many tasks it runs or has reserved; there may be thousands."""
        return f"{len(row.active) + len(row.held):,}" + ("" if row.complete else " or more")

    @admin.display(description="queues")
    def consumes(self, row: WorkerHeartbeat) -> str:
        """Return the names of the queues it consumes."""
        return ", ".join(map(str, row.queues)) or "-"

    @admin.display(description="running tasks")
    def running_tasks(self, row: WorkerHeartbeat) -> str:
        """Return the running tasks with their start."""
        return json_block(row.active)

    @admin.display(description="reserved tasks")
    def reserved_tasks(self, row: WorkerHeartbeat) -> str:
        """Return the tasks that it has taken from the queue and not started."""
        return json_block(row.held)
