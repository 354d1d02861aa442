"""What all tests share: a frozen-time clock for the reaper, and no skipping where everything is installed."""

import os

import freezegun
import pytest
from django.db import connection
from pytest_django.plugin import blocking_manager_key

# What waits for the network waits by the real clock: with frozen time it would wait for ever.
freezegun.configure(
    extend_ignore_list=["kombu", "reaper.broker.queues", "reaper.broker.snapshot", "reaper.workers.inspect"]
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """The longest start first, the others stay in their random order: at the end nobody waits for one of them."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    """Forget the reports of a live test's workers: some outlive the test, and report after its database was cleaned."""
    answer = yield
    from reaper.models import WorkerHeartbeat  # Django is set up by now

    if item.get_closest_marker("live") and connection.settings_dict["NAME"].startswith("test_"):
        with item.config.stash[blocking_manager_key].unblock():
            WorkerHeartbeat.objects.all().delete()
    return answer


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI everything that a test needs is installed, so a skip there hides a missing step: it fails."""
    report = yield
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _test_settings(settings):
    """Frozen time is the host's time; passwords need not be safe, which costs a second each."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.REAPER = {**settings.REAPER, "CLOCK": "host"}


@pytest.fixture(autouse=True)
def _nobody_answers_soon(request, monkeypatch):
    """The workers of most tests are rows only, which answer no inspect: that is not waited for. Live ones do answer."""
    if not request.node.get_closest_marker("live"):
        monkeypatch.setattr("reaper.evidence.sources.INSPECT_TIMEOUT_S", 0.1)
