"""Runs that operators have exempted from recovery."""

import pytest
from freezegun import freeze_time

from reaper.controls.exemptions import exempt_ids, exempt_run, remove_exemption
from reaper.core.policy import Action
from reaper.models import Exemption
from reaper.sweeps import manual
from tests.factories import (
    HOUR,
    NOW,
    SECOND,
    fresh,
    lost_job,
    running_job,
    sent_child,
)
from tests.reaper.controls.operators import ADA, adapter
from tests.reaper.sweeps.helpers import sweep, sweep_queued

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


def test_exempt_run_is_left_alone_until_expiry():
    mine, other = running_job(2 * HOUR), running_job(2 * HOUR)
    exempt_run(adapter(), str(mine.pk), ADA, NOW, NOW + HOUR)
    row = sweep()
    assert fresh(mine).status == "running"
    assert fresh(other).status == "failed"
    assert row.counts == {"exempt": 1, "timed_out": 1}
    assert sweep(at=NOW + HOUR - SECOND).acted == 0
    assert sweep(at=NOW + HOUR).acted == 1


def test_run_is_recovered_again_once_exemption_is_removed(broker):
    job = lost_job()
    exempt_run(adapter(), str(job.pk), ADA, NOW, None)
    assert sweep_queued(at=NOW + 100 * HOUR).counts == {"exempt": 1}
    assert [remove_exemption(adapter(), str(job.pk)) for _ in range(2)] == [True, False]
    assert sweep_queued().acted == 1


def test_exemption_is_of_one_kind_and_can_be_renewed():
    job = sent_child()
    exempt_run(adapter(), str(job.pk), ADA, NOW, None)
    assert exempt_ids(adapter("source_result"), [str(job.pk)], NOW) == set()
    exempt_run(adapter(), str(job.pk), "bob", NOW, NOW + HOUR)
    (row,) = Exemption.objects.all()
    assert row.actor == "bob"
    assert row.until == NOW + HOUR
    assert exempt_ids(adapter(), [str(job.pk), "other"], NOW + SECOND) == {str(job.pk)}


def test_manual_action_works_on_exempt_run(broker):
    job = running_job()
    exempt_run(adapter(), str(job.pk), ADA, NOW, None)
    with freeze_time(NOW):
        done, _ = manual.act_on_run(adapter(), adapter().get(str(job.pk)), Action.FAIL, ADA)
    assert done
    assert fresh(job).status == "failed"
