"""The admin of the reaper's records: they can be read, and not changed. Who may `reap` can switch and exempt."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.html import format_html

from reaper import clock, conf, switches
from reaper.adapters import ModelRunAdapter
from reaper.decisions import Action, Reason
from reaper.facts import Phase
from reaper.forms import ExemptionForm, SwitchForm
from reaper.models import Exemption, Observation, Reaping, RefusedWrite, Sweep, Switch, WorkerReport
from reaper.sweeps import PARENTS
from reaper.words import duration

# What the ledger appends to a kind for the parents of its runs.
OF_PARENT = ".parent"


def as_json(value: Any) -> str:
    """Return a value as JSON that a person can read."""
    return format_html("<pre>{}</pre>", json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True))


def at(name: str) -> Callable[[Any], str]:
    """Return a column that shows a field's time with its seconds, which Django's own format leaves out."""

    @admin.display(description=name.replace("_", " "), ordering=name)
    def shown(row: Any) -> str:
        return in_full(getattr(row, name))

    shown.__name__ = name
    return shown


def in_full(moment: datetime | None) -> str:
    """Return a moment with its seconds; '-' for none."""
    return f"{timezone.localtime(moment):%Y-%m-%d %H:%M:%S}" if moment else "-"


def sentence(reason: str) -> str:
    """Return a reason's sentence; a word that an older or newer version wrote stands for itself."""
    return {str(each): each.sentence for each in Reason}.get(reason, reason)


def model_of(kind: str) -> type[Model] | None:
    """Return the model of a kind's runs, or of their parents; None when the kind is gone or has no model."""
    adapter = conf.adapters().get(kind.removesuffix(OF_PARENT))
    if not isinstance(adapter, ModelRunAdapter):
        return None
    if not kind.endswith(OF_PARENT):
        return adapter.model_class
    parent = adapter.parent_field and adapter.model_class._meta.get_field(adapter.parent_field)
    return parent.related_model if parent else None


class Chosen(admin.SimpleListFilter):
    """A filter whose choices are known: Django's own would read the whole table to find them."""

    values: Sequence[str] = ()

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the choices."""
        return [(str(value), str(value)) for value in self.values]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        """Return the rows of the value that was chosen."""
        return queryset.filter(**{str(self.title): value}) if (value := self.value()) else queryset


class KindFilter(Chosen):
    """By kind of run."""

    title = parameter_name = "kind"

    @property
    def values(self) -> list[str]:  # type: ignore[override]
        """Return the kinds."""
        return list(conf.adapters())


class RunOrParentFilter(KindFilter):
    """By kind of run, or by kind of the runs' parents."""

    @property
    def values(self) -> list[str]:  # type: ignore[override]
        """Return the kinds, and those of parents where a kind has any."""
        kinds = super().values
        return [*kinds, *(kind + OF_PARENT for kind in kinds if model_of(kind + OF_PARENT))]


class PhaseFilter(Chosen):
    """By what was swept."""

    title = parameter_name = "phase"
    values = (Phase.RUNNING, Phase.QUEUED, PARENTS)


class ActionFilter(Chosen):
    """By what was done."""

    title = parameter_name = "action"
    values = (Action.FAIL, Action.REQUEUE, Action.CLOSE, Reaping.FINALIZE, Reaping.DISPATCH)


class ReasonFilter(Chosen):
    """By why it was done."""

    title = parameter_name = "reason"
    values = tuple(Reason)


class GoodFilter(admin.SimpleListFilter):
    """By whether a sweep went well."""

    title = "went well"
    parameter_name = "good"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the choices."""
        return [("1", "Yes"), ("0", "No: it went wrong, or has not ended")]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        """Return the good ones, or the others."""
        good = Q(errors=[], finished_at__isnull=False)
        return queryset.filter({"1": good, "0": ~good}.get(self.value() or "", Q()))


class ReadOnlyAdmin(admin.ModelAdmin):
    """A table that is only looked at, and may be large."""

    show_full_result_count = False
    list_per_page = 50
    # By key: newest first without sorting the table.
    ordering = ("-pk",)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody may."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody may."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody may: old rows are pruned by themselves."""
        return False


class OfRunAdmin(ReadOnlyAdmin):
    """Rows about one run."""

    def get_search_results(self, request: HttpRequest, queryset: QuerySet, search_term: str) -> tuple[QuerySet, bool]:
        """Search, also for KIND:ID as the command prints it."""
        kind, _, pk = search_term.strip().partition(":")
        if pk and kind.removesuffix(OF_PARENT) in conf.adapters():
            return queryset.filter(kind=kind, run_id=pk), False
        return super().get_search_results(request, queryset, search_term)

    @admin.display(description="run")
    def run(self, row: Any) -> str:
        """Return KIND:ID, as a link where the run has a page in the admin."""
        name, model = f"{row.kind}:{row.run_id}", model_of(row.kind)
        if model is None or not self.admin_site.is_registered(model):
            return name
        try:
            page = f"{self.admin_site.name}:{model._meta.app_label}_{model._meta.model_name}_change"
            return format_html('<a href="{}">{}</a>', reverse(page, args=[row.run_id]), name)
        except NoReverseMatch:
            return name


@admin.register(Sweep)
class SweepAdmin(ReadOnlyAdmin):
    """What the sweeps did."""

    list_display = (at("started_at"), "kind", "phase", "went_well", "took", "summary")
    list_filter = (KindFilter, PhaseFilter, GoodFilter, "idle", "started_at")
    fields: ClassVar[Any] = (
        "kind", "phase", "mode", at("started_at"), at("finished_at"), "took", "went_well", "seen", "acted", "finalized",
        "moved_on", "deferred", "counts_by_reason", "errors_shown", "reapings",
    )  # fmt: skip
    readonly_fields = fields

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
        return duration(length) if length.total_seconds() >= 1 else f"{length.total_seconds() * 1000:.0f} ms"

    @admin.display(description="counts by reason")
    def counts_by_reason(self, row: Sweep) -> str:
        """Return the counts with the reasons' sentences."""
        lines = (f"{count:>7,}  {reason}: {sentence(reason)}" for reason, count in sorted(row.counts.items()))
        return format_html("<pre>{}</pre>", "\n".join(lines) or "-")

    @admin.display(description="errors")
    def errors_shown(self, row: Sweep) -> str:
        """Return the errors, one per line."""
        return format_html("<pre>{}</pre>", "\n".join(row.errors)) if row.errors else "-"

    @admin.display(description="reapings")
    def reapings(self, row: Sweep) -> str:
        """Return the way to the sweep's ledger rows: there may be thousands."""
        page = reverse(f"{self.admin_site.name}:reaper_reaping_changelist")
        return format_html('<a href="{}?sweep__id__exact={}">what it did</a>', page, row.pk)


@admin.register(Reaping)
class ReapingAdmin(OfRunAdmin):
    """The ledger: what was done to which run, and why."""

    list_display = (at("at"), "run", "action", "why", "by", "sent")
    list_select_related = ("sweep",)
    list_filter = (RunOrParentFilter, ActionFilter, ReasonFilter, "exhausted", "at")
    search_fields = ("run_id__exact", "task_id__exact", "new_task_id__exact")
    search_help_text = "A run's id, KIND:ID, or a task's id, in full."
    fields: ClassVar[Any] = (
        at("at"), "run", "action", "phase", "why", "message", "by", "task_id", "killed", "revoked",
        "new_task_id", at("published_at"), "facts_shown", "evidence_shown", "sweep",
    )  # fmt: skip
    readonly_fields = fields

    @admin.display(description="why", ordering="reason")
    def why(self, row: Reaping) -> str:
        """Return the reason with its sentence."""
        spent = " (its budget was spent)" if row.exhausted else ""
        return f"{row.reason}: {sentence(row.reason)}{spent}"

    @admin.display(description="by")
    def by(self, row: Reaping) -> str:
        """Return who asked for it."""
        return row.actor or "the reaper"

    @admin.display(description="its task was to be killed")
    def killed(self, row: Reaping) -> str:
        """Return whether the task was to be killed where it runs."""
        return "yes" if row.terminate else "no"

    @admin.display(description="its task was revoked")
    def revoked(self, row: Reaping) -> str:
        """Return when the broker had taken the revokes of its sweep."""
        return "-" if row.unrevoked or row.sweep is None or not row.task_id else in_full(row.sweep.revoked_at)

    @admin.display(description="sent", boolean=True)
    def sent(self, row: Reaping) -> bool:
        """Return whether the broker has taken all that had to be sent."""
        return not (row.unrevoked or (row.new_task_id and row.published_at is None))

    @admin.display(description="facts")
    def facts_shown(self, row: Reaping) -> str:
        """Return what the run's row said."""
        return as_json(row.facts)

    @admin.display(description="evidence")
    def evidence_shown(self, row: Reaping) -> str:
        """Return what was known of its task."""
        return as_json(row.evidence)


@admin.register(Observation)
class ObservationAdmin(OfRunAdmin):
    """What would have been done, had its kind not been switched to observe."""

    list_display = (at("at"), "run", "action", "why")
    list_filter = (RunOrParentFilter, ActionFilter, ReasonFilter, "at")
    search_fields = ("run_id__exact", "task_id__exact")
    search_help_text = "A run's id, KIND:ID, or a task's id, in full."
    fields: ClassVar[Any] = (at("at"), "run", "phase", "action", "why", "message", "task_id")
    readonly_fields = fields

    @admin.display(description="why", ordering="reason")
    def why(self, row: Observation) -> str:
        """Return the reason with its sentence."""
        return f"{row.reason}: {sentence(row.reason)}"


class AddedByReapers(ReadOnlyAdmin):
    """Records that people with the permission `reaper.reap` may add: what they order takes effect at once."""

    shown: Sequence[Any] = ()
    asked: Sequence[str] = ()

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may reap."""
        return request.user.has_perm("reaper.reap")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may look, or reap."""
        return super().has_view_permission(request, obj) or self.has_add_permission(request)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return what is shown of a record, or asked for a new one."""
        return self.shown if obj else self.asked

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return what cannot be changed: everything that is there."""
        return self.shown if obj else ()


@admin.register(Switch)
class SwitchAdmin(AddedByReapers):
    """Who switched a kind of runs, when, and how; a new record switches it."""

    form = SwitchForm
    list_display = (at("at"), "kind", "words", "by")
    list_filter = (KindFilter, "at")
    shown = (at("at"), "kind", "words", "by")
    asked = ("kind", "mode", "paused_until", "released_until")

    def save_model(self, request: HttpRequest, obj: Switch, form: Any, change: bool) -> None:
        """Switch the kind, by the way that the command takes as well."""
        adapter = conf.adapters()[obj.kind]
        orders = {name: form.cleaned_data[name] for name in self.asked if name != "kind"}
        row = switches.switch(adapter, request.user.get_username(), clock.now(adapter.using), **orders)
        obj.pk, obj.at, obj.by = row.pk, row.at, row.by


@admin.register(Exemption)
class ExemptionAdmin(AddedByReapers, OfRunAdmin):
    """The runs that are to be left alone; a new record exempts one, and without it the run is looked after again."""

    form = ExemptionForm
    asked = ("kind", "run_id", "until")
    shown = (at("at"), "run", "by", at("until"))
    list_display = (at("at"), "run", "by", at("until"))
    list_filter = (KindFilter, "at")
    search_fields = ("run_id__exact",)
    search_help_text = "A run's id, or KIND:ID, in full."

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may reap."""
        return self.has_add_permission(request)

    def save_model(self, request: HttpRequest, obj: Exemption, form: Any, change: bool) -> None:
        """Exempt the run, by the way that the command takes as well."""
        adapter = conf.adapters()[obj.kind]
        now = clock.now(adapter.using)
        row = switches.exempt(adapter, obj.run_id, request.user.get_username(), now, obj.until)
        obj.pk, obj.at, obj.by = row.pk, row.at, row.by


@admin.register(RefusedWrite)
class RefusedWriteAdmin(OfRunAdmin):
    """Writes of late or duplicate tasks that a fence stopped."""

    list_display = (at("at"), "run", "write", "task_id", "worker")
    list_filter = (RunOrParentFilter, "at")
    search_fields = ("run_id__exact", "task_id__exact")
    search_help_text = "A run's id, KIND:ID, or a task's id, in full."
    fields: ClassVar[Any] = (at("at"), "run", "write", "task_id", "worker")
    readonly_fields = fields


@admin.register(WorkerReport)
class WorkerReportAdmin(ReadOnlyAdmin):
    """What the workers say of themselves."""

    list_display = ("hostname", "incarnation", at("seen_at"), "holding", "consumed", "draining", at("ended_at"))
    list_filter = ("draining", "complete")
    search_fields = ("hostname__startswith", "incarnation__exact")
    search_help_text = "The beginning of a hostname, or an incarnation in full."
    fields: ClassVar[Any] = (
        "hostname", "incarnation", at("seen_at"), at("listed_at"), at("since"), at("ended_at"), "draining", "complete",
        "consumed", "holding", "active_shown", "held_shown", "backend_pid", at("backend_start"),
    )  # fmt: skip
    readonly_fields = fields

    @admin.display(description="tasks held")
    def holding(self, row: WorkerReport) -> str:
        """Return how many tasks it holds; there may be thousands."""
        return f"{len(row.active) + len(row.held):,}" + ("" if row.complete else " or more")

    @admin.display(description="queues")
    def consumed(self, row: WorkerReport) -> str:
        """Return the names of the queues it consumes."""
        return ", ".join(map(str, row.queues)) or "-"

    @admin.display(description="running tasks")
    def active_shown(self, row: WorkerReport) -> str:
        """Return the running tasks with their start."""
        return as_json(row.active)

    @admin.display(description="waiting tasks")
    def held_shown(self, row: WorkerReport) -> str:
        """Return the other tasks it holds."""
        return as_json(row.held)
