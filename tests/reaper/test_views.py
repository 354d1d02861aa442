"""Who may read the metrics and the state: the same machine, or whoever has the token; and nobody learns more."""

import pytest
from django.db import OperationalError
from django.test import Client
from freezegun import freeze_time

from reaper.conf import settings as conf
from reaper.monitoring import metrics
from tests.worlds import NOW, swept

TOKEN = "f4fd1be0e0d74d2f9b55"
PAGES = ("/metrics", "/reaper/state")

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("limits")]


@pytest.fixture
def token(limits):
    limits(METRICS_TOKEN=TOKEN)


def answer(page, method="get", **environ):
    with freeze_time(NOW):
        return getattr(Client(), method)(page, **environ)


def elsewhere(page, **environ):
    return answer(page, REMOTE_ADDR="10.0.0.8", **environ)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1"])
def test_the_same_machine_may_read(page, address):
    swept()
    assert answer(page, REMOTE_ADDR=address).status_code == 200


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("address", ["10.0.0.8", "::ffff:10.0.0.8", "2001:db8::1", "", "unix:", "localhost"])
def test_another_machine_may_not(page, address):
    response = answer(page, REMOTE_ADDR=address)
    assert (response.status_code, response.content) == (403, b"Not from here, or not without the token.\n")


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    "header", ["X_FORWARDED_FOR", "X_FORWARDED_PROTO", "X_FORWARDED_HOST", "FORWARDED", "X_REAL_IP", "VIA"]
)
@pytest.mark.parametrize("said", ["10.0.0.8", "127.0.0.1", ""])
def test_nobody_is_local_for_whom_a_proxy_asks(page, header, said):
    assert answer(page, **{f"HTTP_{header}": said}).status_code == 403


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_the_token_opens_from_everywhere(page, scheme, token):
    swept()
    assert elsewhere(page, HTTP_AUTHORIZATION=f"{scheme} {TOKEN}").status_code == 200


@pytest.mark.parametrize("page", PAGES)
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
def test_nothing_but_the_token_opens(page, sent, token):
    assert elsewhere(page, HTTP_AUTHORIZATION=sent).status_code == 403


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("sent", ["Bearer", "Bearer ", "Bearer None"])
def test_without_a_token_in_the_settings_none_opens(page, sent):
    assert elsewhere(page, HTTP_AUTHORIZATION=sent).status_code == 403


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_they_are_only_read(page, method):
    assert answer(page, method).status_code == 405


@pytest.mark.parametrize("page", PAGES)
def test_no_cache_keeps_them(page):
    assert "no-store" in answer(page)["Cache-Control"]


def test_the_metrics_are_in_prometheus_format():
    response = answer("/metrics")
    assert response["Content-Type"].startswith("text/plain; version=")
    assert b"# TYPE reaper_runs gauge" in response.content


def test_the_state_says_whether_all_is_well():
    swept()
    response = answer("/reaper/state")
    assert (response.status_code, response.json()["well"]) == (200, True)
    assert {(each["kind"], each["phase"]) for each in response.json()["sweeps"]} >= {("crawl_job", "running")}


def test_the_state_is_503_when_something_is_the_matter():
    response = answer("/reaper/state")
    assert (response.status_code, response.json()["well"]) == (503, False)
    assert response.json()["sweeps"][0]["conditions"] == {"sweep_overdue": "it has never been swept"}


@pytest.mark.parametrize("page", PAGES)
def test_a_database_that_is_away_is_told_without_its_address(page, monkeypatch):
    def away(*arguments):
        raise OperationalError('connection to server at "10.1.2.3", user "crawler" failed')

    monkeypatch.setattr(metrics.totals, "all_time_counts", away)
    monkeypatch.setattr("reaper.monitoring.views.health_of", away)
    response = answer(page)
    assert (response.status_code, response.content) == (503, b"The database cannot be asked.\n")


@pytest.mark.parametrize(
    "token", ["short", "x" * 19, "with a blank in it, and long", "ümlaut" * 5, 12345678901234567890, None]
)
def test_a_token_that_can_be_guessed_is_refused_and_not_repeated(limits, token):
    limits(METRICS_TOKEN=token)
    (found,) = conf.problems()
    assert found.message.startswith('REAPER["METRICS_TOKEN"]')
    assert str(token) not in found.message + found.hint
