"""What a sweep leaves behind: its row, its line in the log."""

import pytest

from reaper.models import Sweep
from tests.factories import (
    HOUR,
    NOW,
    SECOND,
    running_job,
)
from tests.reaper.sweeps.helpers import finalize_parents, sweep, sweep_queued

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


def test_idle_sweeps_share_one_row_with_the_latest_time():
    running_job()
    first = sweep()
    second = sweep(at=NOW + SECOND)
    assert Sweep.objects.get() == first == second
    assert second.idle
    assert second.started_at == NOW + SECOND
    assert second.finished_at == NOW + SECOND
    assert second.scanned == 1
    assert second.counts == {"within_grace": 1}
    sweep_queued()
    sweep("source_result")
    finalize_parents()
    assert Sweep.objects.filter(idle=True).count() == 4


def test_sweep_with_effect_is_kept():
    for number in range(2):
        running_job(2 * HOUR)
        sweep(at=NOW + number * SECOND)
        sweep(at=NOW + number * SECOND)
    assert Sweep.objects.filter(idle=False).count() == 2
    assert Sweep.objects.filter(idle=True).count() == 1


def test_sweep_with_effect_is_logged_in_one_line(caplog):
    caplog.set_level("INFO", "reaper.sweeps.record")
    running_job()
    sweep()
    assert caplog.messages == []
    running_job(2 * HOUR)
    sweep()
    assert caplog.messages == ["swept crawl_job running: 2 scanned, 1 acted on (timed_out 1, within_grace 1)"]
