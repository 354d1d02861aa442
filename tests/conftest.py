"""What all tests share: the reaper's clock under frozen time, and no skips in CI."""

import os

import freezegun
import pytest
from django.db import connection
from pytest_django.plugin import blocking_manager_key

# Modules that wait for the network need the real clock: under frozen time they would wait forever.
freezegun.configure(
    extend_ignore_list=["kombu", "reaper.broker.queues", "reaper.broker.snapshot", "reaper.workers.inspect"]
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Start the `long` tests first, so that the run does not end waiting for one; leave the others in random order."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    """Delete the heartbeats of a live test's workers: some outlive it and write after the database was cleaned."""
    answer = yield
    from reaper.models import WorkerHeartbeat  # Django is set up by now

    if item.get_closest_marker("live") and connection.settings_dict["NAME"].startswith("test_"):
        with item.config.stash[blocking_manager_key].unblock():
            WorkerHeartbeat.objects.all().delete()
    return answer


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Fail a test that is skipped in CI: everything is installed there, so a skip hides a missing step."""
    report = yield
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _test_settings(settings):
    """Use the host's clock, which freezegun freezes, and a fast password hasher (a safe one takes a second)."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.REAPER = {**settings.REAPER, "CLOCK": "host"}


@pytest.fixture(autouse=True)
def _short_inspect_timeout(request, monkeypatch):
    """Do not wait for inspect answers: the workers of most tests are only rows. Those of live tests do answer."""
    if not request.node.get_closest_marker("live"):
        monkeypatch.setattr("reaper.evidence.sources.INSPECT_TIMEOUT_S", 0.1)
