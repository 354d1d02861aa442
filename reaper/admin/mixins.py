"""What the pages of the reaper's records have in common: columns, filters, and that nothing is changed."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import quote
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.html import format_html

from reaper.adapters import ModelRunAdapter
from reaper.conf import settings as conf
from reaper.core.facts import Phase
from reaper.core.policy import Action, SweepScope
from reaper.core.reasons import Reason
from reaper.models import LedgerEntry

# What the ledger appends to a kind for the parents of its runs.
OF_PARENT = ".parent"


def as_json(value: Any) -> str:
    """Return a value as JSON that a person can read."""
    return format_html("<pre>{}</pre>", json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True))


def datetime_column(name: str) -> Callable[[Any], str]:
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


class StaticChoicesFilter(admin.SimpleListFilter):
    """A filter whose choices are known: Django's own would read the whole table to find them."""

    values: Sequence[str] = ()

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the choices."""
        return [(str(value), str(value)) for value in self.values]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        """Return the rows of the value that was chosen."""
        return queryset.filter(**{str(self.title): value}) if (value := self.value()) else queryset


class KindFilter(StaticChoicesFilter):
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


class PhaseFilter(StaticChoicesFilter):
    """By what was swept."""

    title = parameter_name = "phase"
    values = (Phase.RUNNING, Phase.QUEUED, SweepScope.PARENTS)


class ActionFilter(StaticChoicesFilter):
    """By what was done."""

    title = parameter_name = "action"
    values = (
        Action.FAIL,
        Action.REQUEUE,
        Action.CLOSE,
        LedgerEntry.FINALIZE,
        LedgerEntry.DISPATCH,
        LedgerEntry.REVOKE,
        LedgerEntry.REOPEN,
    )


class ReasonFilter(StaticChoicesFilter):
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


class OpenFilter(admin.SimpleListFilter):
    """By whether it is over."""

    title = "state"
    parameter_name = "open"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the choices."""
        return [("1", "Open"), ("0", "Resolved")]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        """Return the open ones, or the others."""
        is_open = Q(resolved_at=None)
        return queryset.filter({"1": is_open, "0": ~is_open}.get(self.value() or "", Q()))


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


class RunRecordAdmin(ReadOnlyAdmin):
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
            return format_html('<a href="{}">{}</a>', reverse(page, args=[quote(row.run_id)]), name)
        except NoReverseMatch:
            return name
