"""Who may read the metrics: the same machine, or whoever has the token; and nobody learns more."""

import pytest
from django.db import OperationalError
from django.test import Client
from freezegun import freeze_time

from reaper.conf import settings as conf
from tests.factories import NOW, swept

TOKEN = "f4fd1be0e0d74d2f9b55"
PAGE = "/metrics"

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("limits")]


@pytest.fixture
def token(limits):
    limits(METRICS_TOKEN=TOKEN)


def answer(method="get", **environ):
    with freeze_time(NOW):
        return getattr(Client(), method)(PAGE, **environ)


def elsewhere(**environ):
    return answer(REMOTE_ADDR="10.0.0.8", **environ)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1"])
def test_local_request_is_answered(address):
    swept()
    assert answer(REMOTE_ADDR=address).status_code == 200


@pytest.mark.parametrize("address", ["10.0.0.8", "::ffff:10.0.0.8", "2001:db8::1", "", "unix:", "localhost"])
def test_remote_request_is_forbidden(address):
    response = answer(REMOTE_ADDR=address)
    assert response.status_code == 403
    assert response.content == b"Forbidden: use a local request or a valid token.\n"


@pytest.mark.parametrize(
    "header", ["X_FORWARDED_FOR", "X_FORWARDED_PROTO", "X_FORWARDED_HOST", "FORWARDED", "X_REAL_IP", "VIA"]
)
@pytest.mark.parametrize("address", ["10.0.0.8", "127.0.0.1", ""])
def test_local_request_through_a_proxy_is_forbidden(header, address):
    assert answer(**{f"HTTP_{header}": address}).status_code == 403


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_valid_token_is_answered_from_everywhere(scheme, token):
    swept()
    assert elsewhere(HTTP_AUTHORIZATION=f"{scheme} {TOKEN}").status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer None",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer ä",
    ],
)
def test_invalid_token_is_forbidden(sent, token):
    assert elsewhere(HTTP_AUTHORIZATION=sent).status_code == 403


@pytest.mark.parametrize("sent", ["Bearer", "Bearer ", "Bearer None"])
def test_without_a_configured_token_every_token_is_forbidden(sent):
    assert elsewhere(HTTP_AUTHORIZATION=sent).status_code == 403


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_other_methods_are_not_allowed(method):
    assert answer(method).status_code == 405


def test_answer_is_not_cached():
    assert "no-store" in answer()["Cache-Control"]


def test_metrics_are_in_prometheus_format():
    response = answer()
    assert response["Content-Type"].startswith("text/plain; version=")
    assert b"# TYPE reaper_runs gauge" in response.content


def test_unavailable_database_is_503_without_its_address(monkeypatch):
    def away(*arguments):
        raise OperationalError('connection to server at "10.1.2.3", user "crawler" failed')

    monkeypatch.setattr("reaper.ledger.totals.all_time_counts", away)
    response = answer()
    assert response.status_code == 503
    assert response.content == b"Database unavailable.\n"


@pytest.mark.parametrize(
    "token", ["short", "x" * 19, "with a blank in it, and long", "ümlaut" * 5, 12345678901234567890, None]
)
def test_weak_token_setting_is_refused_without_repeating_it(limits, token):
    limits(METRICS_TOKEN=token)
    (found,) = conf.problems()
    assert found.message.startswith('REAPER["METRICS_TOKEN"]')
    assert str(token) not in found.message + found.hint
