"""The view that Prometheus scrapes: the metrics, for the same machine or with the token."""

import hmac
from collections.abc import Callable
from functools import wraps
from ipaddress import ip_address

from django.db import Error
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST

from reaper.conf.settings import get_settings
from reaper.monitoring.metrics import exposition

View = Callable[[HttpRequest], HttpResponse]
# A request through a proxy on the same machine has a local address, but at least one of these headers: a proxy that
# ends TLS adds X-Forwarded-Proto, if nothing else.
FORWARDED = (
    *("HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_HOST"),
    *("HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_VIA"),
)


def for_machines(view: View) -> View:
    """Answer GET from the same machine or with `Authorization: Bearer TOKEN`; 403 to others, 503 without a database.

    An error's details are only in the log, since anyone may send a request.
    """

    @require_safe
    @never_cache
    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponse:
        if not (is_local(request) or has_token(request)):
            return HttpResponse(
                "Forbidden: use a local request or a valid token.\n", status=403, content_type="text/plain"
            )
        try:
            return view(request)
        except Error:
            return HttpResponse("Database unavailable.\n", status=503, content_type="text/plain")

    return guarded


def is_local(request: HttpRequest) -> bool:
    """Return whether the request comes from this machine itself, not through a proxy on it."""
    # guard: metrics: no proxy
    if any(name in request.META for name in FORWARDED):
        return False
    try:
        return ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        # A request over a unix socket has no address; it comes through a proxy.
        return False


def has_token(request: HttpRequest) -> bool:
    """Return whether the request carries the token of the settings."""
    token = get_settings().metrics_token.encode()
    scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
    same = hmac.compare_digest(sent.strip().encode(), token)
    # guard: metrics: the token
    return bool(token) and scheme.lower() == "bearer" and same


@for_machines
def prometheus(request: HttpRequest) -> HttpResponse:
    """Answer with the metrics, in Prometheus's text format."""
    return HttpResponse(exposition(), content_type=CONTENT_TYPE_LATEST)
