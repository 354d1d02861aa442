"""A schedule is switched off and on in a real browser, and a real Beat obeys within the time that is promised."""

import pytest
from django.conf import global_settings
from django.test import override_settings
from django.utils import timezone
from playwright.sync_api import expect

from tests.browser.conftest import PASSWORD, log_in, opened
from tests.processes import wait_until
from tests.reaper.test_beat_live import (
    CONTROL,
    PROMISED,
    WATCHED,
    broker,
    last_sweep,
    later_sweep,
    processes,
)  # fmt: skip

pytestmark = [
    pytest.mark.live,
    pytest.mark.long,
    pytest.mark.xdist_group("browser"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(600),
]
__all__ = ["broker", "processes"]  # fixtures


def test_beat_obeys_the_button(chromium, processes, django_user_model):
    processes.migrate()
    # The web server knows only the hashers of the real settings.
    with override_settings(PASSWORD_HASHERS=global_settings.PASSWORD_HASHERS):
        django_user_model.objects.create_superuser("ada", password=PASSWORD)
    with opened(chromium, processes.start_server()) as tab:
        log_in(tab, "ada")
        processes.start_worker()
        processes.start_beat()
        later_sweep(WATCHED, None)
        later_sweep(CONTROL, None)
        tab.reload()
        name = "reaper: sweep running runs"
        tab.get_by_role("button", name=f"Switch off {name}").click()
        switched = timezone.now()
        expect(tab.get_by_text(f"“{name}” is switched off. Beat obeys within 10 s.")).to_be_visible()
        # The other one goes on every 30 s: what comes of the first within that time, comes too late.
        later_sweep(CONTROL, last_sweep(CONTROL))
        stopped = last_sweep(WATCHED)
        assert stopped - switched < PROMISED
        tab.reload()
        expect(tab.get_by_text("its schedule is switched off").first).to_be_visible()
        tab.get_by_role("button", name=f"Switch on {name}").click()
        switched = timezone.now()
        wait_until(lambda: last_sweep(WATCHED) > stopped, what="a sweep after it was switched on")
        assert last_sweep(WATCHED) - switched < PROMISED
