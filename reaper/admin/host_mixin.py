"""The mixin that a host adds to the admin of its own runs."""

from collections.abc import Callable
from typing import Any

from django.contrib.admin.utils import unquote
from django.http import HttpRequest, HttpResponse

from reaper.adapters import ModelRunAdapter, RunAdapter
from reaper.admin.access import can_reap, can_view_runs
from reaper.admin.bulk_views import EXEMPT, FAIL, MAX_RUNS, REQUEUE, confirmation
from reaper.conf import settings as conf
from reaper.reports.timeline import timeline_of

# The labels of the actions in the list, by what they do.
ACTION_LABELS = {FAIL: "Reaper: fail", REQUEUE: "Reaper: requeue", EXEMPT: "Reaper: exempt from recovery"}


class ReaperRunAdminMixin:
    """For the admin of a model whose rows are runs.

    Its list gets the reaper's actions for users with the permission `reaper.reap`; the page of a run gets its
    timeline and a link to the reaper's own page::

        @admin.register(Order)
        class OrderAdmin(ReaperRunAdminMixin, admin.ModelAdmin): ...
    """

    change_form_template: Any = "admin/reaper/run_change_form.html"
    model: Any

    def get_adapter(self) -> RunAdapter | None:
        """Return the adapter whose runs are this model's rows; None if the model has none."""
        for adapter in conf.adapters().values():
            if isinstance(adapter, ModelRunAdapter) and adapter.model_class is self.model:
                return adapter
        return None

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Add the reaper's actions for users who may reap."""
        actions = super().get_actions(request)  # type: ignore[misc]
        if self.get_adapter() and can_reap(request.user):
            for act, label in ACTION_LABELS.items():
                name = f"reaper_{act}"
                actions[name] = (confirming_action(act), name, label)
        return actions

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        """Add the run's timeline and the link to the reaper's page of it."""
        adapter = self.get_adapter() if can_view_runs(request.user) else None
        run = adapter.get(unquote(object_id)) if adapter else None
        reaper_context = {"reaper_run": run, "timeline": timeline_of(adapter, run) if adapter and run else []}
        context = {**reaper_context, **(extra_context or {})}
        return super().change_view(request, object_id, form_url, context)  # type: ignore[misc]


def confirming_action(act: str) -> Callable[..., HttpResponse]:
    """Return the admin action that shows the confirmation page."""

    def action(model_admin: Any, request: HttpRequest, queryset: Any) -> HttpResponse:
        pks = [str(pk) for pk in queryset.order_by("pk").values_list("pk", flat=True)[:MAX_RUNS]]
        return confirmation(request, model_admin.get_adapter(), act, pks, queryset.count())

    return action
