"""Fail, requeue or exempt many runs that were selected in a host's list: the confirmation page, and its button."""

from collections.abc import Sequence

from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse

from reaper.adapters import RunAdapter
from reaper.admin.access import get_adapter_or_404, require_reap_permission
from reaper.admin.dashboard_views import redirect_to_dashboard
from reaper.admin.links import model_of
from reaper.conf import clock
from reaper.controls.exemptions import exempt_runs
from reaper.core.explain import ACTION_DONE
from reaper.core.facts import UNFINISHED_PHASES, RunFacts
from reaper.core.policy import Action
from reaper.reports.timeline import state_token
from reaper.sweeps import manual

FAIL = "fail"
REQUEUE = "requeue"
EXEMPT = "exempt"
ACTIONS = {FAIL: Action.FAIL, REQUEUE: Action.REQUEUE}
QUESTIONS = {FAIL: "Fail these runs?", REQUEUE: "Requeue these runs?", EXEMPT: "Exempt these runs from recovery?"}
# Runs that one request acts on: some seconds of work.
MAX_RUNS = 2000
# Runs that the confirmation page names.
MAX_NAMED = 100


def confirmation(request: HttpRequest, adapter: RunAdapter, act: str, pks: Sequence[str], total: int) -> HttpResponse:
    """Show which of the `total` selected runs would be acted on, before anything is done."""
    runs = [run for run in adapter.get_all(pks[:MAX_RUNS]) if run.phase in UNFINISHED_PHASES]
    context = {
        **admin.site.each_context(request),
        "title": QUESTIONS[act],
        "kind": adapter.kind,
        "act": act,
        "runs": runs[:MAX_NAMED],
        "count": len(runs),
        "unnamed": len(runs[MAX_NAMED:]),
        "left_out": min(total, MAX_RUNS) - len(runs),
        "beyond": max(0, total - MAX_RUNS),
        "max_runs": MAX_RUNS,
        "lines": "\n".join(f"{run.pk} {state_token(run)}" for run in runs),
    }
    return TemplateResponse(request, "admin/reaper/confirm.html", context)


@require_reap_permission
def act_on_runs(request: HttpRequest) -> HttpResponseBase:
    """Apply the confirmed action to each run that is unchanged since the page was loaded.

    The POST parameter `runs` has a line "KEY TOKEN" for each. Raises Http404 for an unknown kind or action.
    """
    adapter = get_adapter_or_404(request.POST.get("kind", ""))
    act = request.POST.get("act", "")
    if act not in QUESTIONS:
        raise Http404("There is no such action.")
    tokens = parse_tokens(request.POST.get("runs", ""))
    unchanged = [
        # guard: bulk action: the runs are unchanged
        run
        for run in adapter.get_all(list(tokens)[:MAX_RUNS])
        if state_token(run) == tokens[run.pk] and run.phase in UNFINISHED_PHASES
    ]
    done = exempt_all(request, adapter, unchanged) if act == EXEMPT else act_on_all(request, adapter, unchanged, act)
    outcome = "exempt from recovery" if act == EXEMPT else ACTION_DONE[ACTIONS[act]]
    messages.success(request, f"{done:,} of {len(tokens):,} {adapter.kind} runs {outcome}.")
    if len(tokens) > done:
        messages.warning(
            request, f"{len(tokens) - done:,} changed since the page was loaded, or have finished; left unchanged."
        )
    model = model_of(adapter.kind)
    if model is None:
        return redirect_to_dashboard()
    return redirect(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def parse_tokens(text: str) -> dict[str, str]:
    """Return the state token of each run that the form names; lines that are not "KEY TOKEN" are skipped."""
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if " " in line)


def exempt_all(request: HttpRequest, adapter: RunAdapter, runs: Sequence[RunFacts]) -> int:
    """Exempt runs from recovery, with no expiry; return how many."""
    exempt_runs(adapter, [run.pk for run in runs], request.user.get_username(), clock.now(adapter.using))
    return len(runs)


def act_on_all(request: HttpRequest, adapter: RunAdapter, runs: Sequence[RunFacts], act: str) -> int:
    """Fail or requeue runs, report which messages the broker did not take, and return how many were acted on."""
    row = manual.act_on_runs(adapter, runs, ACTIONS[act], request.user.get_username())
    for error in row.error_messages:
        messages.warning(request, f"{error}. It is recorded, and the next sweep sends it.")
    return row.acted
