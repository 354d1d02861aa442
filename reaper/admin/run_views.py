"""The page of one run, and its buttons."""

from collections.abc import Callable
from typing import NamedTuple

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.views.decorators.http import require_safe

from reaper.adapters import RunAdapter
from reaper.admin.access import can_view_runs, get_adapter_or_404, get_run_or_404, require_reap_permission
from reaper.admin.links import change_url
from reaper.conf import clock
from reaper.controls.exemptions import exempt_run, remove_exemption
from reaper.controls.overrides import effective_policy
from reaper.core.explain import ACTION_DONE, describe_decision, describe_evidence, describe_facts, describe_limits
from reaper.core.facts import UNFINISHED_PHASES, Phase, RunFacts
from reaper.core.formatting import one_line
from reaper.core.policy import Action
from reaper.ledger.history import find_undoable_end
from reaper.models import Sweep
from reaper.reports.timeline import state_token, timeline_of
from reaper.sweeps import manual
from reaper.sweeps.judging import judge_run


class Press(NamedTuple):
    """One press of a button on the page of a run."""

    request: HttpRequest
    adapter: RunAdapter
    run: RunFacts

    @property
    def actor(self) -> str:
        """Return who pressed it."""
        return self.request.user.get_username()

    @property
    def name(self) -> str:
        """Return the run as messages name it."""
        return f"The run {self.adapter.kind}:{self.run.pk}"

    @property
    def is_outdated(self) -> bool:
        """Return whether the run has changed since the page was loaded."""
        return state_token(self.run) != self.request.POST.get("state_token")


@require_safe
def run_page(request: HttpRequest, kind: str, pk: str) -> HttpResponseBase:
    """Explain one run: its row, the evidence, the next action, its history; and offer the buttons."""
    if not can_view_runs(request.user):
        raise PermissionDenied
    adapter = get_adapter_or_404(kind)
    now = clock.now(adapter.using)
    judged = judge_run(adapter, pk, now)
    if judged is None:
        raise Http404(f"There is no {kind} run {one_line(pk, 100)!r}.")
    run = judged.run
    policy = effective_policy(adapter)
    evidence = describe_evidence(run, judged.evidence, now)
    is_reopenable = run.phase is Phase.FINISHED and adapter.supports_reopen and find_undoable_end(adapter, run.pk)
    context = {
        **admin.site.each_context(request),
        "title": f"{kind}:{run.pk}",
        "run": run,
        "host_page": change_url(admin.site, kind, run.pk),
        "is_unfinished": run.phase in UNFINISHED_PHASES,
        "is_reopenable": is_reopenable,
        "facts": describe_facts(run, now),
        "evidence": f"{evidence[:1].upper()}{evidence[1:]}." if evidence else "",
        "verdict": describe_decision(run, judged.decision, policy, now),
        "will_act": judged.decision.action is not Action.LEAVE,
        "limits": describe_limits(run, policy),
        "reason": judged.decision.reason,
        "state_token": state_token(run),
        "timeline": timeline_of(adapter, run),
    }
    return TemplateResponse(request, "admin/reaper/run.html", context)


@require_reap_permission
def act_on_run(request: HttpRequest) -> HttpResponseBase:
    """Apply one of a run's buttons. Raises Http404 for an unknown kind, run or button."""
    adapter = get_adapter_or_404(request.POST.get("kind", ""))
    run = get_run_or_404(adapter, request.POST.get("pk", ""))
    handler = HANDLERS.get(request.POST.get("act", ""))
    if handler is None:
        raise Http404("There is no such action.")
    handler(Press(request, adapter, run))
    return redirect("admin:reaper_run", adapter.kind, run.pk)


def fail(press: Press) -> None:
    """Fail the run."""
    end_run(press, Action.FAIL)


def requeue(press: Press) -> None:
    """Give the run a new task."""
    end_run(press, Action.REQUEUE)


def end_run(press: Press, action: Action) -> None:
    """Fail or requeue the run, if it is unfinished and unchanged since the page was loaded."""
    if refuse_if_changed(press):
        return
    applied, row = manual.act_on_run(press.adapter, press.run, action, press.actor)
    done = f"{press.name} was {ACTION_DONE[action]}." if applied else ""
    report_outcome(press.request, row, done, changed_text(press))


def revoke(press: Press) -> None:
    """Revoke the run's task; the run's row stays as it is."""
    if not refuse_if_changed(press):
        row = manual.revoke(press.adapter, press.run, press.actor)
        report_outcome(press.request, row, f"The task of {press.adapter.kind}:{press.run.pk} was revoked.")


def exempt(press: Press) -> None:
    """Exempt the run from recovery, with no expiry."""
    exempt_run(press.adapter, press.run.pk, press.actor, clock.now(press.adapter.using), None)
    messages.success(press.request, f"{press.name} is exempt from recovery.")


def unexempt(press: Press) -> None:
    """Remove the run's exemption."""
    remove_exemption(press.adapter, press.run.pk)
    messages.success(press.request, f"{press.name} is monitored again.")


def complete_parent(press: Press) -> None:
    """Complete the run's parent, if all its children have finished."""
    not_done = "The parent was not completed: it is already complete, or a child has not finished."
    if not press.run.parent:
        messages.error(press.request, not_done)
        return
    applied, row = manual.finalize(press.adapter, press.run.parent, press.actor)
    report_outcome(press.request, row, "The parent was completed." if applied else "", not_done)


def reopen(press: Press) -> None:
    """Undo the run's end: mark it as running again."""
    applied, row = manual.reopen(press.adapter, press.run, press.actor)
    done = f"{press.name} is marked as running again." if applied else ""
    report_outcome(
        press.request,
        row,
        done,
        f"{press.name} cannot be reopened: its state changed since the reaper ended it, its parent has ended,"
        " or its adapter does not support reopening.",
    )


# By the button's name, which is also the POST parameter `act`.
HANDLERS: dict[str, Callable[[Press], None]] = {
    "fail": fail,
    "requeue": requeue,
    "revoke": revoke,
    "exempt": exempt,
    "unexempt": unexempt,
    "finalize": complete_parent,
    "reopen": reopen,
}


def refuse_if_changed(press: Press) -> bool:
    """Report that the run has changed or has finished, and return True; return False if it may be acted on."""
    # guard: button: the run is unchanged
    if press.is_outdated:
        messages.error(press.request, changed_text(press))
        return True
    if press.run.phase not in UNFINISHED_PHASES:
        messages.error(
            press.request, f"{press.name} has finished, or is not managed by the reaper. Nothing was changed."
        )
        return True
    return False


def changed_text(press: Press) -> str:
    """Return that the run changed in the meantime."""
    return f"{press.name} changed since this page was loaded. Nothing was changed; check it again."


def report_outcome(request: HttpRequest, row: Sweep, done: str, not_done: str = "") -> None:
    """Report an action's outcome: `done` if it was applied ("" if not), and what the broker has not taken yet."""
    if done:
        messages.success(request, done)
    elif not row.errors:
        messages.error(request, not_done)
    for error in row.error_messages:
        later = " It is recorded, and the next sweep sends it." if done else ""
        messages.warning(request, f"{error}.{later}")
