"""The brake, as the sweeps obey it: many runs at once, and workers that stop reporting together."""

import pytest
from freezegun import freeze_time

from reaper.core import brake
from reaper.core.facts import Phase
from reaper.core.sweep_errors import ErrorCode
from reaper.sweeps.sweep import sweep as sweep_phase
from tests.factories import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    child,
    fresh,
    held_job,
    lost_job,
    parent,
    report,
    running_job,
)
from tests.reaper.controls.operators import adapter, switched
from tests.reaper.sweeps.helpers import sweep, sweep_queued, unsent_job

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


MANY = brake.HELD_LIMIT + 1


def test_brake_limits_recoveries_to_20_a_sweep():
    jobs = [running_job((100 - number) * HOUR) for number in range(MANY + 4)]
    row = sweep()
    assert row.acted == brake.HELD_LIMIT
    assert row.deferred == 5
    (error,) = row.recorded_errors
    assert error.code == ErrorCode.BRAKE_ENGAGED
    assert error.message == (
        "25 of 25 running runs would be acted on at once, limited to 20 per sweep;"
        " to lift: manage.py reaper release crawl_job"
    )
    # The oldest come first; five are too few to be held.
    assert [fresh(job).status for job in jobs] == [*["failed"] * 20, *["running"] * 5]
    row = sweep(at=NOW + SECOND)
    assert row.acted == 5
    assert row.errors == []


def test_brake_ignores_rows_of_unknown_status(broker):
    for _ in range(MANY):
        unsent_job()
        running_job(status="dreaming")
    assert sweep_queued().acted == brake.HELD_LIMIT


def test_brake_is_off_for_many_runs_below_55_percent():
    for _ in range(MANY):
        running_job(2 * HOUR)
    for _ in range(MANY):
        held_job(MINUTE, worker="celery@w3/abc")
    row = sweep()
    assert row.scanned == 2 * MANY
    assert row.acted == MANY
    assert row.errors == []


def test_released_brake_limits_no_run_until_deadline():
    switched(released_until=NOW + SECOND)
    for _ in range(MANY):
        running_job(2 * HOUR)
    assert sweep().acted == MANY
    for _ in range(MANY):
        running_job(2 * HOUR)
    assert sweep(at=NOW + SECOND).acted == brake.HELD_LIMIT


def test_brake_limits_requeues_of_lost_messages(broker):
    jobs = [lost_job(MINUTE) for _ in range(MANY)]
    row = sweep_queued()
    assert row.acted == brake.HELD_LIMIT
    assert row.deferred == 1
    assert len(broker.ids()) == brake.HELD_LIMIT
    assert sum(fresh(job).task_id != job.task_id for job in jobs) == brake.HELD_LIMIT


def test_brake_does_not_limit_children_of_ended_parents():
    job = parent(status="completed", finalized_at=NOW)
    for _ in range(MANY):
        child(job, "running")
    row = sweep("source_result")
    assert row.acted == MANY
    assert row.errors == []


def test_brake_does_not_limit_unpublished_runs(broker, monkeypatch, tmp_path):
    switched(released_until=NOW + SECOND)
    for _ in range(MANY):
        unsent_job()
    with monkeypatch.context() as patch:
        patch.setenv("CELERY_BROKER_WRITE_URL", f"redis+socket://{tmp_path}/nobody.sock")
        assert sweep_queued().acted == MANY
    row = sweep_queued(at=NOW + MINUTE)
    assert row.acted == MANY
    assert row.errors == []
    assert len(broker.ids()) == MANY


# --- many workers that fall silent together -----------------------------------------------------------------------


def silent(number, ago=MINUTE):
    """A worker that is not heard of any more, and its job."""
    job = running_job(5 * MINUTE, worker=f"celery@s{number}/abc")
    report(job.worker, silent=ago, active={job.task_id: (NOW - ago).timestamp()})
    return job


def test_mass_silence_suspends_decisions_by_absence(limits):
    report("celery@w1/abc")
    report("celery@w2/abc")
    jobs = [silent(number) for number in range(3)]
    late = running_job(2 * HOUR, worker="celery@s0/abc")
    with freeze_time(NOW):
        row = sweep_phase(adapter(), Phase.RUNNING)
    assert {fresh(job).status for job in jobs} == {"running"}
    assert row.counts == {"inconclusive": 3, "timed_out": 1}
    # What needs no evidence goes on.
    assert fresh(late).status == "failed"
    (error,) = row.recorded_errors
    assert error.code == ErrorCode.MASS_SILENCE
    assert error.message == (
        "3 of 5 workers of queue crawl lost heartbeat together, and none is back:"
        " absence-based decisions are suspended until a worker consumes the queue again"
    )


@pytest.mark.parametrize(("since", "status"), [(11, "running"), (12, "failed")])
def test_mass_silence_ends_once_a_worker_reports_for_the_limit(since, status):
    report("celery@w1/abc")
    jobs = [silent(number) for number in range(3)]
    report("celery@new/abc", since=NOW - since * SECOND)
    with freeze_time(NOW, tick=True):
        sweep_phase(adapter(), Phase.RUNNING)
    assert {fresh(job).status for job in jobs} == {status}


def test_mass_silence_of_another_queue_suspends_nothing():
    report("celery@w1/abc")
    report("celery@w2/abc", queues=["other"])
    for number in range(4):
        job = silent(number)
        report(job.worker, silent=MINUTE, queues=["other"], active={job.task_id: 0})
    with freeze_time(NOW, tick=True):
        row = sweep_phase(adapter(), Phase.RUNNING)
    assert row.counts == {"orphaned": 4}
    assert row.errors == []
