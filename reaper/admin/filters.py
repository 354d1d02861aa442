"""The filters beside the admin's lists."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from reaper.admin.links import model_of
from reaper.conf import settings as conf
from reaper.core.policy import Action, SweepScope
from reaper.core.reasons import Reason
from reaper.ledger.manual import PARENT_SUFFIX
from reaper.models import LedgerEntry


class StaticChoicesFilter(admin.SimpleListFilter):
    """Filter on a column with fixed choices: Django's own filter reads the whole table to find them."""

    values: Sequence[str] = ()

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the choices as (value, label)."""
        return [(str(value), str(value)) for value in self.values]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        """Return the rows that have the chosen value."""
        value = self.value()
        return queryset.filter(**{self.parameter_name: value}) if self.parameter_name and value else queryset


class ConditionFilter(admin.SimpleListFilter):
    """Filter by whether a condition holds: "1" selects the rows that meet it, "0" the others."""

    condition: Q
    labels: tuple[str, str]
    """The labels of the rows that meet the condition, and of the others."""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the choices as (value, label)."""
        return list(zip(("1", "0"), self.labels, strict=True))

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        """Return the rows of the chosen side."""
        chosen = {"1": self.condition, "0": ~self.condition}.get(self.value() or "")
        return queryset if chosen is None else queryset.filter(chosen)


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
        """Return the kinds, and those of their parents where there are any."""
        kinds = super().values
        return [*kinds, *(kind + PARENT_SUFFIX for kind in kinds if model_of(kind + PARENT_SUFFIX))]


class PhaseFilter(StaticChoicesFilter):
    """By what was swept."""

    title = parameter_name = "phase"
    values = (SweepScope.RUNNING, SweepScope.QUEUED, SweepScope.PARENTS, SweepScope.MANUAL)


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


class AppliedFilter(ConditionFilter):
    """By whether it was done, or would have been done in a dry run."""

    title = "applied / dry run"
    parameter_name = "applied"
    condition = Q(applied=True)
    labels = ("applied", "dry run")


class SuccessFilter(ConditionFilter):
    """By whether a sweep finished without problems."""

    title = "success"
    parameter_name = "success"
    condition = Q(errors=[], finished_at__isnull=False)
    labels = ("Yes", "No: it had problems, or has not finished")


class OpenFilter(ConditionFilter):
    """By whether an alert is open."""

    title = "state"
    parameter_name = "open"
    condition = Q(resolved_at=None)
    labels = ("Open", "Resolved")
