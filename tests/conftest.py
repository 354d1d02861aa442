"""What all tests share: a frozen-time clock for the reaper, and no skipping where everything is installed."""

import os

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """The longest start first, the others stay in their random order: at the end nobody waits for one of them."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


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
