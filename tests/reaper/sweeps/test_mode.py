"""The sweeps obey what operators have switched."""

from itertools import count

import pytest
from django.db import connection
from freezegun import freeze_time

from reaper.conf import settings as conf
from reaper.core.policy import Action, Mode
from reaper.core.sweep_errors import ErrorCode
from reaper.models import LedgerEntry, Sweep
from reaper.signals import reaped
from reaper.sweeps import manual
from reaper.sweeps.judging import judge_phase
from tests.factories import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    executing,
    fresh,
    held_job,
    parent,
    running_job,
)
from tests.reaper.controls.operators import ADA, adapter, switched
from tests.reaper.sweeps.helpers import (
    connected,
    finalize_parents,
    host,
    sweep,
    sweep_everything,
    sweep_queued,
    unsent_job,
    world,
)
from tests.servers import killed

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


@pytest.mark.parametrize("changes", [{"mode": Mode.OFF}, {"paused_until": NOW + HOUR}], ids=["off", "paused"])
def test_sweep_of_kind_that_is_off_reads_no_runs(changes, broker, django_assert_max_num_queries):
    world()
    stuck = parent("completed")
    for kind in conf.adapters():
        switched(kind, **changes)
    before = host()
    rows = [*sweep_everything(), finalize_parents()]
    assert [(row.scanned, row.idle, row.mode, row.errors) for row in rows] == [(0, True, "off", [])] * 5
    assert host() == before
    assert fresh(stuck).finalized_at is None
    assert broker.revokes() == []
    assert broker.ids() == []
    assert not LedgerEntry.objects.exists()


def test_switching_off_stops_sweep_within_one_batch(monkeypatch, broker):
    monkeypatch.setattr("reaper.sweeps.sweep.BATCH", 2)
    jobs = [held_job((9 - number) * HOUR) for number in range(6)]
    done = count(1)

    def is_seen_by_ada(**_):
        if next(done) == 3:
            switched(mode=Mode.OFF)

    with connected(reaped, is_seen_by_ada):
        row = sweep()
    assert [fresh(job).status for job in jobs] == [*["failed"] * 4, *["running"] * 2]
    assert row.acted == 4
    assert row.deferred == 2
    assert row.error_messages == ["switched off during the sweep; the remaining runs were skipped"]
    assert LedgerEntry.objects.count() == 4


def switch_off_once_all_are_judged(monkeypatch):
    """Between the last verdict of a sweep and what it does then, somebody switches the kind off."""
    judged = judge_phase

    def is_seen_by_ada(*what):
        yield from judged(*what)
        switched(mode=Mode.OFF)

    monkeypatch.setattr("reaper.sweeps.sweep.judge_phase", is_seen_by_ada)


@pytest.mark.parametrize("off", [False, True])
def test_leftover_task_is_not_killed_once_kind_is_off(off, monkeypatch, broker):
    job = held_job(2 * HOUR)
    sweep()
    broker.revokes()
    at = NOW + MINUTE
    executing(job, name=job.worker, now=at)
    if off:
        switch_off_once_all_are_judged(monkeypatch)
    row = sweep(at=at)
    assert broker.revokes() == ([] if off else [killed([job.task_id], "celery@w1")])
    assert [error.code for error in row.recorded_errors] == ([ErrorCode.SWITCHED_OFF] if off else [])


@pytest.mark.parametrize("off", [False, True])
def test_unpublished_run_is_not_sent_again_once_kind_is_off(off, monkeypatch, broker, tmp_path):
    job = unsent_job()
    with monkeypatch.context() as patch:
        patch.setenv("CELERY_BROKER_WRITE_URL", f"redis+socket://{tmp_path}/nobody.sock")
        sweep_queued()
    if off:
        switch_off_once_all_are_judged(monkeypatch)
    row = sweep_queued(at=NOW + MINUTE)
    assert (row.acted, row.deferred) == ((0, 1) if off else (1, 0))
    assert broker.ids() == ([] if off else [fresh(job).task_id])


def test_manual_action_works_while_kind_is_off(broker):
    job = running_job()
    switched(mode=Mode.OFF)
    with freeze_time(NOW):
        done, row = manual.act_on_run(adapter(), adapter().get(str(job.pk)), Action.FAIL, ADA)
    assert done
    assert fresh(job).status == "failed"
    assert row.mode == "act"


def test_pending_revoke_waits_during_dry_run(broker, monkeypatch, tmp_path):
    job = held_job(2 * HOUR)
    with monkeypatch.context() as patch:
        patch.setenv("CELERY_BROKER_WRITE_URL", f"redis+socket://{tmp_path}/nobody.sock")
        sweep()
    switched(mode=Mode.DRY_RUN)
    sweep(at=NOW + SECOND)
    assert broker.revokes() == []
    switched(mode=Mode.ACT)
    sweep(at=NOW + 2 * SECOND)
    assert broker.revokes() == [killed([job.task_id], "celery@w1")]


def test_sweep_queries_controls_a_bounded_number_of_times():
    """Once when it begins, and once per batch."""
    for _ in range(5):
        running_job(2 * HOUR)
    asked = []

    def note(execute, sql, *rest):
        asked.append(sql) if "reaper_kindcontrol" in sql else None
        return execute(sql, *rest)

    with connection.execute_wrapper(note):
        assert sweep().acted == 5
    assert len(asked) == 2
    assert Sweep.objects.get().mode == "act"
