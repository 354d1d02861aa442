"""One bad run, hook or receiver never stops the others."""

import pytest
from django.db import connection

from apps.sources.models import CrawlJob
from apps.sources.reaping import CrawlJobs
from reaper.core.facts import Phase
from reaper.models import Sweep
from reaper.signals import reaped, swept
from reaper.sweeps.judging import judge_run
from tests.factories import (
    HOUR,
    NOW,
    fresh,
    lost_job,
    running_job,
    witness,
)
from tests.plugin.adapter import Parcels
from tests.reaper.sweeps.helpers import LOST, connected, lose, sweep, sweep_queued

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


def test_signal_receiver_that_raises_stops_no_sweep(caplog):
    def broken(**_):
        raise OSError("boom")

    jobs = [running_job(2 * HOUR) for _ in range(2)]
    with connected(reaped, broken), connected(swept, broken):
        row = sweep()
    assert row.acted == 2
    assert row.errors == []
    assert {fresh(job).status for job in jobs} == {"failed"}
    assert "boom" in caplog.text


def test_adapter_that_raises_midway_is_recorded_and_read_runs_are_acted_on():
    class Fragile(CrawlJobs):
        def iter_unfinished(self, phase):
            yield from super().iter_unfinished(phase)
            raise OSError("boom")

    job = running_job(2 * HOUR)
    row = sweep(Fragile())
    assert row.error_messages == ["cut short: OSError: boom"]
    assert fresh(job).status == "failed"
    assert Sweep.objects.get() == row


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param({"job": None}, id="NULL id"),
        pytest.param({"job": ""}, id="empty id"),
        pytest.param({"job": "same"}, id="another's id"),
        pytest.param({"picked": None}, id="no start"),
        pytest.param({"picked": None, "made": None}, id="no clock"),
        pytest.param({"picked": NOW + 99 * HOUR, "made": None}, id="future clock"),
        pytest.param({"picked": NOW + 99 * HOUR, "made": NOW + 99 * HOUR}, id="future clocks"),
        pytest.param({"note": None}, id="NULL message"),
    ],
)
@pytest.mark.parametrize("stage", ["new", "again", "underway"])
def test_row_with_odd_facts_stops_no_other_run(parcels, broker, stage, facts):
    stuck = {"stage": stage, "made": NOW - 9 * HOUR, "picked": NOW - 9 * HOUR}
    odd = parcels.create(**{**stuck, "job": "odd", **facts})
    plain = parcels.create(**stuck, job="same" if facts.get("job") == "same" else "plain")
    lose(broker, odd, plain, at=NOW, queue="parcels")
    witness("parcels")
    phase = Phase.RUNNING if stage == "underway" else Phase.QUEUED
    row = sweep("parcel", phase)
    assert row.scanned == 2
    assert row.errors == []
    assert sum(row.counts.values()) == 2
    assert fresh(plain).stage == ("lost" if phase is Phase.RUNNING else "again")
    for revoke in broker.revokes():
        assert set(revoke.ids) <= {"odd", "plain", "same"}


def test_runs_without_usable_timestamp_are_counted_and_left(parcels):
    for stage in ("new", "underway"):
        parcels.create(stage=stage, job=stage)
        parcels.create(stage=stage, job=f"{stage} 2", made=NOW + 9 * HOUR)
    for phase in (Phase.RUNNING, Phase.QUEUED):
        row = sweep("parcel", phase)
        assert row.scanned == 2
        assert row.acted == 0
        assert row.counts == {"no_timestamp": 2}


def test_run_in_unknown_status_is_counted_and_left(parcels):
    parcels.create(stage="odd", job="t1", made=NOW - 99 * HOUR)
    parcels.create(stage=None, job="t2", made=NOW - 99 * HOUR)
    before = list(parcels.order_by("pk").values())
    assert sweep("parcel", Phase.RUNNING).acted == 0
    row = sweep("parcel", Phase.QUEUED)
    assert row.scanned == 2
    assert row.acted == 0
    assert row.counts == {"unknown_status": 2}
    assert list(parcels.order_by("pk").values()) == before
    verdict = judge_run(Parcels(), str(before[0]["id"]), NOW)
    assert str(verdict.decision.reason) == "unknown_status"


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite keeps no such timestamp")
@pytest.mark.parametrize("stamp", ["20000-01-01 00:00+00", "0044-03-15 00:00+00 BC", "infinity"])
def test_timestamp_beyond_python_range_stops_no_other_run(stamp):
    odd, odd_progress, stuck = (running_job(2 * HOUR) for _ in range(3))
    waits = lost_job(LOST)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE crawl_jobs SET started_at = %s, queued_at = %s WHERE id = %s", [stamp, stamp, odd.pk])
        cursor.execute("UPDATE crawl_jobs SET heartbeat_at = %s WHERE id = %s", [stamp, odd_progress.pk])
        cursor.execute("UPDATE crawl_jobs SET queued_at = %s WHERE id = %s", [stamp, waits.pk])
    row = sweep()
    # What can be read of the others decides: each was made two hours ago.
    assert row.scanned == 3
    assert row.acted == 3
    assert row.errors == []
    assert row.counts == {"timed_out": 3}
    assert CrawlJob.objects.filter(pk__in=[odd.pk, odd_progress.pk, stuck.pk], status="failed").count() == 3
    row = sweep_queued()
    assert row.scanned == 1
    assert row.acted == 1
    assert row.errors == []
