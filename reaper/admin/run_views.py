"""What the buttons do: switch a kind, switch a schedule, and deal with one run or many, each by POST and permission."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import wraps
from typing import Any

from django.apps import apps
from django.contrib import admin, messages
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, path, reverse
from django.views.decorators.http import require_POST, require_safe

from reaper.adapters import ModelRunAdapter, RunAdapter
from reaper.admin.mixins import model_of
from reaper.conf import clock
from reaper.conf import settings as conf
from reaper.controls import modes as switches
from reaper.controls import overrides as policies
from reaper.controls.exemptions import exempt_run, exempt_runs, remove_exemption
from reaper.core.explain import PAST, evidence_in_words, facts_in_words, limits_in_words, verdict_in_words
from reaper.core.facts import Phase, RunFacts
from reaper.core.formatting import one_line
from reaper.core.policy import Action, Mode
from reaper.ledger import records as ledger
from reaper.models import Sweep
from reaper.reports import diagnosis as reports
from reaper.sweeps import manual as by_hand
from reaper.sweeps import sweep as sweeps

View = Callable[..., HttpResponseBase]
HOUR = timedelta(hours=1)
# What can be done with a run, by the button's name: what it says, and to how many at once.
FAIL, REQUEUE, REVOKE, EXEMPT, UNEXEMPT, FINALIZE = "fail", "requeue", "revoke", "exempt", "readmit", "finalize"
REOPEN = "reopen"
ACTS = {FAIL: Action.FAIL, REQUEUE: Action.REQUEUE}
# Runs dealt with in one request: some seconds of work. Those that are named on the page before.
MOST, NAMED = 2000, 100


def urls(site: admin.AdminSite) -> list[Any]:
    """Return the addresses of the pages and buttons."""
    return [
        path("order/", site.admin_view(control_kind), name="reaper_order"),
        path("schedule/", site.admin_view(schedule), name="reaper_schedule"),
        path("run/<str:kind>/<path:pk>/", site.admin_view(run_page), name="reaper_run"),
        path("act/", site.admin_view(act_on_run), name="reaper_act"),
        path("act-on-all/", site.admin_view(act_on_runs), name="reaper_act_on_all"),
    ]


def require_reap_permission(view: View) -> View:
    """Let the view be asked by POST only, by people with the permission `reaper.reap`."""

    # What is done is committed before messages go out, also where a host has every request be one transaction.
    @transaction.non_atomic_requests
    # guard: a button: POST only
    @require_POST
    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponseBase:
        # guard: a button: the permission
        if not request.user.has_perm("reaper.reap"):
            raise PermissionDenied
        return view(request)

    return guarded


def adapter_of(kind: str) -> RunAdapter:
    """Return a kind's adapter. Raises Http404 when there is no such kind."""
    if kind not in conf.adapters():
        raise Http404(f"There is no kind {one_line(kind, 100)!r}.")
    return conf.adapters()[kind]


def home() -> HttpResponse:
    """Go to the overview."""
    return redirect("admin:app_list", "reaper")


def control_changes(order: str, now: datetime) -> dict[str, Any] | None:
    """Return what a button of a kind changes, as `switches.switch` takes it; None when there is no such button."""
    known: dict[str, dict[str, Any]] = {str(mode): {"mode": mode} for mode in Mode}
    known |= {"settings": {"mode": ""}, "unpause": {"paused_until": None}, "unrelease": {"released_until": None}}
    known |= {"pause": {"paused_until": now + HOUR}, "release": {"released_until": now + HOUR}}
    return known.get(order)


@require_reap_permission
def control_kind(request: HttpRequest) -> HttpResponseBase:
    """Switch a kind."""
    adapter = adapter_of(request.POST.get("kind", ""))
    now = clock.now(adapter.using)
    asked = control_changes(request.POST.get("order", ""), now)
    if asked is None:
        raise Http404("There is no such order.")
    row = switches.set_controls(adapter, request.user.get_username(), now, **asked)
    messages.success(request, f"Switched {row}. This counts from now on.")
    return home()


@require_reap_permission
def schedule(request: HttpRequest) -> HttpResponseBase:
    """Switch one of the reaper's schedules on or off: to what was asked for, also when it is asked twice."""
    if not apps.is_installed("django_celery_beat"):
        raise Http404("django_celery_beat is not installed.")
    from reaper import schedules  # whose models exist only then

    row = schedules.existing().filter(pk=parse_key(request.POST.get("schedule"))).first()
    if row is None:
        raise Http404("There is no such schedule.")
    enabled = request.POST.get("enabled") == "1"
    said = "switched on" if enabled else "switched off"
    if row.enabled != enabled:
        row.enabled = enabled
        row.save(update_fields=["enabled", "date_changed"])
        admin.ModelAdmin(type(row), admin.site).log_change(request, row, f"{said} in the reaper's overview")
    messages.success(request, f"“{row.name}” is {said}. Beat obeys within 10 s.")
    return home()


def parse_key(text: Any) -> int:
    """Return what a form sent as a key; 0, which is none, when it is no number."""
    return int(text) if str(text).isdecimal() and len(str(text)) < 19 else 0


@require_safe
def run_page(request: HttpRequest, kind: str, pk: str) -> HttpResponseBase:
    """Explain one run: what is known of it, what would be done with it, what happened to it, and the buttons."""
    if not (request.user.has_perm("reaper.view_ledgerentry") or request.user.has_perm("reaper.reap")):
        raise PermissionDenied
    adapter = adapter_of(kind)
    now = clock.now(adapter.using)
    verdict = sweeps.verdict(adapter, pk, now)
    if verdict is None:
        raise Http404(f"There is no {kind} run {one_line(pk, 100)!r}.")
    run, decision, evidence = verdict
    known = evidence_in_words(run, evidence, now)
    sentences = [*facts_in_words(run, now), f"{known[:1].upper()}{known[1:]}." if known else ""]
    context = {
        **admin.site.each_context(request),
        "title": f"{kind}:{run.pk}",
        "run": run,
        "page": admin_url_of(kind, run.pk),
        "unfinished": run.phase in (Phase.QUEUED, Phase.RUNNING),
        "reopenable": run.phase is Phase.FINISHED
        and adapter.supports_reopen
        and ledger.find_undoable_end(adapter, run.pk),
        "sentences": [each for each in sentences if each],
        "verdict": verdict_in_words(run, decision),
        "limits": limits_in_words(run, policies.effective_policy(adapter)),
        "reason": str(decision.reason),
        "seen": reports.state_token(run),
        "timeline": reports.timeline(adapter, run),
    }
    return TemplateResponse(request, "admin/reaper/run.html", context)


def admin_url_of(kind: str, pk: str) -> str:
    """Return the address of a run's own page in the admin; '' when it has none."""
    model = model_of(kind)
    if model is None or not admin.site.is_registered(model):
        return ""
    try:
        return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[quote(pk)])
    except NoReverseMatch:
        return ""


@require_reap_permission
def act_on_run(request: HttpRequest) -> HttpResponseBase:
    """Do one thing with one run, if it is still as it was seen."""
    kind, pk, what = (request.POST.get(name, "") for name in ("kind", "pk", "act"))
    adapter = adapter_of(kind)
    run = adapter.get(pk)
    if run is None:
        raise Http404(f"There is no {kind} run {one_line(pk, 100)!r}.")
    by, now = request.user.get_username(), clock.now(adapter.using)
    back = redirect("admin:reaper_run", kind, run.pk)
    if what in (EXEMPT, UNEXEMPT):
        exempt_run(adapter, run.pk, by, now, None) if what == EXEMPT else remove_exemption(adapter, run.pk)
        messages.success(
            request, f"The run {kind}:{run.pk} is {'left alone' if what == EXEMPT else 'looked after again'}."
        )
    elif what == FINALIZE:
        finalize(request, adapter, run, by)
    elif what == REOPEN:
        done, row = by_hand.reopen(adapter, run, by)
        kept = (
            f"The run {kind}:{run.pk} cannot be reopened: it is not as the reaper has left it, or its kind forbids it."
        )
        tell(request, row, f"The run {kind}:{run.pk} was reopened." if done else "", kept)
    elif what not in (*ACTS, REVOKE):
        raise Http404("There is no such act.")
    # guard: a button: the run as it was seen
    elif reports.state_token(run) != request.POST.get("seen"):
        messages.error(request, f"The run {kind}:{run.pk} changed since you looked. Nothing was done; look again.")
    elif run.phase not in (Phase.QUEUED, Phase.RUNNING):
        messages.error(
            request, f"The run {kind}:{run.pk} has ended or is none of the reaper's business. Nothing was done."
        )
    elif what == REVOKE:
        tell(request, by_hand.revoke(adapter, run, by), f"The task of {kind}:{run.pk} was revoked.")
    else:
        done, row = by_hand.act_on_run(adapter, run, ACTS[what], by)
        moved = f"The run {kind}:{run.pk} changed since you looked. Nothing was done; look again."
        tell(request, row, f"The run {kind}:{run.pk} was {PAST[ACTS[what]]}." if done else "", moved)
    return back


def finalize(request: HttpRequest, adapter: RunAdapter, run: RunFacts, by: str) -> None:
    """Give a run's parent its outcome."""
    done, row = by_hand.finalize(adapter, run.parent, by) if run.parent else (False, None)
    not_done = "The parent was not finalized: there is none that waits, or a child has not ended."
    if row is None:
        messages.error(request, not_done)
    else:
        tell(request, row, "The parent was given its outcome." if done else "", not_done)


def tell(request: HttpRequest, row: Sweep, done: str, not_done: str = "") -> None:
    """Tell what became of it, and what the broker has not taken yet."""
    if done:
        messages.success(request, done)
    elif not row.errors:
        messages.error(request, not_done)
    for error in row.errors:
        later = " It is in the ledger, and sent by the next sweep." if done else ""
        messages.warning(request, f"{error}.{later}")


@require_reap_permission
def act_on_runs(request: HttpRequest) -> HttpResponseBase:
    """Do one thing with many runs, those that are still as they were seen; the list is "KEY WORD" lines."""
    kind, what = request.POST.get("kind", ""), request.POST.get("act", "")
    adapter = adapter_of(kind)
    if what not in (*ACTS, EXEMPT):
        raise Http404("There is no such act.")
    asked = dict(line.rsplit(" ", 1) for line in request.POST.get("runs", "").splitlines() if " " in line)
    now, by = clock.now(adapter.using), request.user.get_username()
    found = adapter.get_all(list(asked)[:MOST])
    same = [
        # guard: many at once: as they were seen
        run
        for run in found
        if reports.state_token(run) == asked[run.pk] and run.phase in (Phase.QUEUED, Phase.RUNNING)
    ]
    if what == EXEMPT:
        exempt_runs(adapter, [run.pk for run in same], by, now)
        done, row = len(same), None
    else:
        row = by_hand.act_on_runs(adapter, same, ACTS[what], by)
        done = row.acted
    past = "left alone from now on" if what == EXEMPT else PAST[ACTS[what]]
    messages.success(request, f"{done:,} of {len(asked):,} {kind} runs: {past}.")
    if len(asked) > done:
        messages.warning(
            request, f"{len(asked) - done:,} have changed since you looked, or have ended. They were left as they are."
        )
    for error in row.errors if row else ():
        messages.warning(request, f"{error}. What is in the ledger is sent by the next sweep.")
    model = model_of(kind)
    return redirect(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist") if model else home()


def confirmation(request: HttpRequest, adapter: RunAdapter, what: str, pks: Sequence[str], total: int) -> HttpResponse:
    """Show which runs would be dealt with, before it is done."""
    found = adapter.get_all(pks[:MOST])
    unfinished = [run for run in found if run.phase in (Phase.QUEUED, Phase.RUNNING)]
    context = {
        **admin.site.each_context(request),
        "title": {FAIL: "Fail these runs?", REQUEUE: "Requeue these runs?", EXEMPT: "Leave these runs alone?"}[what],
        "kind": adapter.kind,
        "act": what,
        "runs": unfinished[:NAMED],
        "count": len(unfinished),
        "more": len(unfinished[NAMED:]),
        "left_out": min(total, MOST) - len(unfinished),
        "beyond": max(0, total - MOST),
        "most": MOST,
        "lines": "\n".join(f"{run.pk} {reports.state_token(run)}" for run in unfinished),
    }
    return TemplateResponse(request, "admin/reaper/confirm.html", context)


class ReaperRunAdminMixin:
    """For the admin of a model whose rows are runs: its pages lead to the reaper's, its list has the reaper's actions.

    class OrderAdmin(RunPages, admin.ModelAdmin): ...
    """

    change_form_template: Any = "admin/reaper/run_change_form.html"
    model: Any

    def reaped_kind(self) -> RunAdapter | None:
        """Return the adapter whose runs are this model's rows."""
        for adapter in conf.adapters().values():
            if isinstance(adapter, ModelRunAdapter) and adapter.model_class is self.model:
                return adapter
        return None

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Add the reaper's actions for those who may reap."""
        actions = super().get_actions(request)  # type: ignore[misc]
        if self.reaped_kind() and request.user.has_perm("reaper.reap"):
            for what in (FAIL, REQUEUE, EXEMPT):
                name = f"reaper_{what}"
                actions[name] = (
                    confirming_action(what),
                    name,
                    {FAIL: "Reaper: fail", REQUEUE: "Reaper: requeue", EXEMPT: "Reaper: leave alone"}[what],
                )
        return actions

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        """Add the way to the reaper's page of the run."""
        adapter = self.reaped_kind()
        may = request.user.has_perm("reaper.view_ledgerentry") or request.user.has_perm("reaper.reap")
        run = adapter.get(unquote(object_id)) if adapter and may else None
        timeline = reports.timeline(adapter, run) if adapter and run else []
        more = {"reaped": run, "timeline": timeline, **(extra_context or {})}
        return super().change_view(request, object_id, form_url, more)  # type: ignore[misc]


def confirming_action(what: str) -> Callable[..., HttpResponse]:
    """Return the action that asks whether it is to be done."""

    def action(model_admin: Any, request: HttpRequest, queryset: Any) -> HttpResponse:
        pks = [str(pk) for pk in queryset.order_by("pk").values_list("pk", flat=True)[:MOST]]
        return confirmation(request, model_admin.reaped_kind(), what, pks, queryset.count())

    return action
