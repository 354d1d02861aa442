"""The permissions of the reaper's pages and buttons, and the 404 for an unknown kind or run."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponseBase
from django.views.decorators.http import require_POST

from reaper.adapters import RunAdapter
from reaper.conf import settings as conf
from reaper.core.facts import RunFacts
from reaper.core.formatting import one_line

View = Callable[..., HttpResponseBase]


def can_reap(user: Any) -> bool:
    """Return whether a user may change anything here: the permission `reaper.reap`."""
    return bool(user.has_perm("reaper.reap"))


def can_view_runs(user: Any) -> bool:
    """Return whether a user may see what the reaper knows of runs."""
    return bool(user.has_perm("reaper.view_ledgerentry")) or can_reap(user)


def require_reap_permission(view: View) -> View:
    """Accept POST only, and only from users with the permission `reaper.reap`; answer 405 or 403 otherwise."""

    # Commit before messages are sent, also where the host wraps every request in a transaction.
    @transaction.non_atomic_requests
    # guard: button: POST only
    @require_POST
    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponseBase:
        # guard: button: the permission
        if not request.user.has_perm("reaper.reap"):
            raise PermissionDenied
        return view(request)

    return guarded


def get_adapter_or_404(kind: str) -> RunAdapter:
    """Return a kind's adapter. Raises Http404 if there is no such kind."""
    if kind not in conf.adapters():
        raise Http404(f"There is no kind {one_line(kind, 100)!r}.")
    return conf.adapters()[kind]


def get_run_or_404(adapter: RunAdapter, pk: str) -> RunFacts:
    """Return a run. Raises Http404 if there is none."""
    run = adapter.get(pk)
    if run is None:
        raise Http404(f"There is no {adapter.kind} run {one_line(pk, 100)!r}.")
    return run
