"""A real browser in front of the real pages. Skipped where there is no Chromium: `.ci/run` installs one."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.fixtures import broker, limits, redis_server
from tests.processes import ROOT

__all__ = ["broker", "limits", "redis_server"]  # fixtures

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# No word to anybody but the page under test: CI has no way out, and a developer's browser is nobody's business.
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
# With SCREENSHOTS=1 the pictures of the docs are made anew.
PICTURES = ROOT / "docs" / "images"
PATIENCE_MS = 20_000
PASSWORD = "correct horse battery"


@pytest.fixture(scope="session")
def chromium():
    """The browser, started once."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)

    # Its loop runs in this thread, and Django then takes every query for one of a coroutine.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


def is_problem(entry):
    """Return whether a console entry is a problem of the page; a missing favicon is not."""
    return entry.type in ("error", "warning") and not entry.location.get("url", "").endswith("/favicon.ico")


@contextmanager
def opened(chromium, url, **options):
    """A fresh tab; an error in its console, or a page that breaks, fails the test."""
    context = chromium.new_context(base_url=url, **{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_default_timeout(PATIENCE_MS)
    tab, wrong = context.new_page(), []
    tab.on("console", lambda entry: wrong.append(entry.text) if is_problem(entry) else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("response", lambda answer: wrong.append(f"{answer.status} {answer.url}") if answer.status >= 500 else None)
    try:
        yield tab
    finally:
        context.close()
    assert wrong == []


def log_in(tab, name, then="/admin/reaper/"):
    """Log in as a person does."""
    tab.goto(f"/admin/login/?next={then}")
    tab.fill("#id_username", name)
    tab.fill("#id_password", PASSWORD)
    tab.click("input[type=submit]")
    tab.wait_for_url(f"**{then}")


@pytest.fixture
def ada(django_user_model, live_server):
    """A superuser."""
    return django_user_model.objects.create_superuser("ada", password=PASSWORD)


@pytest.fixture
def tab(chromium, live_server, ada):
    """A tab in which ada has logged in, on the overview."""
    with opened(chromium, live_server.url) as page:
        log_in(page, "ada")
        yield page


def picture(tab, name):
    """Take a screenshot of the upper part of a page for the docs, if requested."""
    if os.environ.get("SCREENSHOTS"):
        PICTURES.mkdir(exist_ok=True)
        height = min(1440, tab.evaluate("document.documentElement.scrollHeight"))
        clip = {"x": 0, "y": 0, "width": 1280, "height": height}
        tab.screenshot(path=Path(PICTURES, f"{name}.png"), full_page=True, clip=clip)


def serious(tab):
    """Return axe's serious and critical findings in the reaper's part of a page, as (rule, place)."""
    found = Axe().run(tab, context=".reaper").response["violations"]
    worst = [each for each in found if each["impact"] in ("serious", "critical")]
    return [(each["id"], node["html"][:120]) for each in worst for node in each["nodes"]]
