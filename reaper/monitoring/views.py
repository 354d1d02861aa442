"""What machines read over HTTP: the metrics and the state. For the same machine, or for whoever has the token."""

import hmac
from collections.abc import Callable
from functools import wraps
from ipaddress import ip_address

from django.db import Error
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST

from reaper.conf import clock
from reaper.conf import settings as conf
from reaper.monitoring import metrics
from reaper.monitoring.health import health_of

View = Callable[[HttpRequest], HttpResponse]
# Behind a proxy on the same machine everybody seems to be there. One that ends TLS says so, if it says nothing else.
FORWARDED = (
    *("HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_HOST"),
    *("HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_VIA"),
)


def for_machines(view: View) -> View:
    """Answer GET from the same machine or with `Authorization: Bearer TOKEN`; 403 to others, 503 without a database.

    What is wrong is not said to whoever asks: the log has it.
    """

    @require_safe
    @never_cache
    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponse:
        if not (is_local(request) or has_token(request)):
            return HttpResponse("Not from here, or not without the token.\n", status=403, content_type="text/plain")
        try:
            return view(request)
        except Error:
            return HttpResponse("The database cannot be asked.\n", status=503, content_type="text/plain")

    return guarded


def is_local(request: HttpRequest) -> bool:
    """Return whether the request comes from this machine, and from nobody for whom it was passed on."""
    # guard: metrics: no proxy
    if any(name in request.META for name in FORWARDED):
        return False
    try:
        return ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        # A unix socket has no address: a proxy is behind it.
        return False


def has_token(request: HttpRequest) -> bool:
    """Return whether the request carries the token of the settings."""
    token = conf.get_settings().metrics_token.encode()
    scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
    same = hmac.compare_digest(sent.strip().encode(), token)
    # guard: metrics: the token
    return bool(token) and scheme.lower() == "bearer" and same


@for_machines
def prometheus(request: HttpRequest) -> HttpResponse:
    """Answer with the metrics, in Prometheus's text format."""
    return HttpResponse(metrics.exposition(), content_type=CONTENT_TYPE_LATEST)


@for_machines
def state(request: HttpRequest) -> HttpResponse:
    """Answer with how each kind and phase is swept, as JSON; 503 when something is the matter with one."""
    found = [each for adapter in conf.adapters().values() for each in health_of(adapter, clock.now(adapter.using))]
    well = not any(each.conditions for each in found)
    return JsonResponse({"well": well, "sweeps": [each.as_json() for each in found]}, status=200 if well else 503)
