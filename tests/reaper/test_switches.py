"""The brake and the switches as the sweeps obey them: modes, pauses, releases, and runs that are exempted."""

from functools import partial
from itertools import count, pairwise

import pytest
from django.db import connection
from freezegun import freeze_time

from apps.sources.models import CrawlJob, CrawlJobSourceResult
from reaper.conf import settings as conf
from reaper.controls import modes as switches
from reaper.controls.exemptions import exempt_ids, exempt_run, remove_exemption
from reaper.core import brake
from reaper.core.facts import Phase
from reaper.core.policy import Action, Mode
from reaper.core.sweep_errors import ErrorCode
from reaper.models import Exemption, KindControl, LedgerEntry, MessageSighting, Sweep
from reaper.signals import reaped
from reaper.sweeps import manual
from reaper.sweeps.judging import judge_phase
from reaper.sweeps.sweep import sweep as sweep_phase
from tests.reaper.test_sweeps import connected, finalize_parents, sweep, sweep_queued, unsent_job
from tests.servers import killed
from tests.worlds import (
    COMMITTED,
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    at_once,
    child,
    executing,
    fresh,
    held_job,
    lost_job,
    orphan,
    parent,
    report,
    running_job,
    sent_child,
)

ADA = "ada"
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


def adapter(kind="crawl_job"):
    return conf.adapters()[kind]


def switched(kind="crawl_job", at=NOW, **changes):
    return switches.set_controls(adapter(kind), ADA, at, **changes)


def state(at=NOW, kind="crawl_job"):
    return switches.state_of(adapter(kind), at)


def host():
    """All rows of the host, as they are."""
    return [list(model.objects.order_by("pk").values()) for model in (CrawlJob, CrawlJobSourceResult)]


# --- how a kind is switched ---------------------------------------------------------------------------------------


def test_a_kind_acts_unless_somebody_says_otherwise(limits):
    assert state()[:3] == (Mode.ACT, None, False)
    limits(MODE="dry_run", KINDS={"source_result": {"MODE": "off"}})
    assert [state(kind=kind).mode for kind in ("crawl_job", "source_result")] == [Mode.DRY_RUN, Mode.OFF]
    switched(mode=Mode.ACT)
    assert [state(kind=kind).mode for kind in ("crawl_job", "source_result")] == [Mode.ACT, Mode.OFF]
    switched(mode="")
    assert state().mode == Mode.DRY_RUN


def test_what_one_switches_leaves_the_rest_as_it_was_and_all_is_kept_with_the_names():
    switched(mode=Mode.DRY_RUN)
    switches.set_controls(adapter(), "bob", NOW, released_until=NOW + HOUR)
    assert state()[:3] == (Mode.DRY_RUN, None, True)
    assert (state().actor, state().mode_is_override, state(kind="source_result").actor) == ("bob", True, "")
    assert [(row.actor, row.summary) for row in KindControl.objects.order_by("id")] == [
        ("ada", "mode dry_run"),
        ("bob", "mode dry_run, brake released until 2026-03-01 13:00:00 UTC"),
    ]


@COMMITTED
@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")
def test_of_two_who_switch_at_the_same_time_neither_undoes_what_the_other_did():
    switched()

    def many(by, changes):
        for change in changes:
            switches.set_controls(adapter(), by, NOW, **change)

    modes = [{"mode": (Mode.ACT, Mode.DRY_RUN)[number % 2]} for number in range(30)]
    pauses = [{"paused_until": NOW + number * HOUR} for number in range(30)]
    at_once(partial(many, "bob", modes), partial(many, "eve", pauses))
    rows = list(KindControl.objects.order_by("id"))
    assert len(rows) == 61
    for before, after in pairwise(rows):
        kept = "paused_until" if after.actor == "bob" else "mode"
        assert getattr(after, kept) == getattr(before, kept)


def test_a_pause_ends_by_itself():
    switched(paused_until=NOW + HOUR)
    assert state(NOW + HOUR - SECOND)[:3] == (Mode.OFF, NOW + HOUR, False)
    assert state(NOW + HOUR)[:3] == (Mode.ACT, None, False)


def test_a_release_ends_by_itself():
    switched(released_until=NOW + HOUR)
    assert [state(NOW + HOUR - SECOND).released, state(NOW + HOUR).released] == [True, False]


def test_a_word_of_another_version_is_none(limits):
    limits(MODE="dry_run")
    KindControl.objects.create(kind="crawl_job", created_at=NOW, actor=ADA, mode="dream")
    assert state().mode == Mode.DRY_RUN


# --- modes --------------------------------------------------------------------------------------------------------


def world():
    """One run of each sort that is acted on, and some that are not."""
    job = parent("running", status="completed", finalized_at=NOW)
    return [running_job(2 * HOUR), orphan(), lost_job(), unsent_job(), held_job(MINUTE, worker="celery@w3/abc"), job]


def sweep_everything(at=NOW):
    return [sweep(kind, phase, at) for kind in conf.adapters() for phase in (Phase.RUNNING, Phase.QUEUED)]


@pytest.mark.parametrize("changes", [{"mode": Mode.OFF}, {"paused_until": NOW + HOUR}], ids=["off", "paused"])
def test_what_is_off_is_not_even_read(changes, broker, django_assert_max_num_queries):
    world()
    stuck = parent("completed")
    for kind in conf.adapters():
        switched(kind, **changes)
    before = host()
    rows = [*sweep_everything(), finalize_parents()]
    assert [(row.scanned, row.idle, row.mode, row.errors) for row in rows] == [(0, True, "off", [])] * 5
    assert (host(), fresh(stuck).finalized_at, broker.revokes(), broker.ids()) == (before, None, [], [])
    assert not LedgerEntry.objects.exists()


def test_observing_decides_the_same_and_touches_nothing(broker):
    world()
    stuck = parent("completed", "failed")
    for kind in conf.adapters():
        switched(kind, mode=Mode.DRY_RUN)
    before, looks = host(), MessageSighting.objects.count()
    watched = [*sweep_everything(), finalize_parents()]
    assert (host(), broker.revokes(), broker.ids(), LedgerEntry.objects.applied().count()) == (before, [], [], 0)
    assert [(row.acted, row.idle, row.errors) for row in watched] == [(0, True, [])] * 5
    assert MessageSighting.objects.count() >= looks
    would = {(row.kind, row.run_id, row.action, row.reason) for row in LedgerEntry.objects.dry_run()}
    for kind in conf.adapters():
        switched(kind, mode=Mode.ACT)
    acted = [*sweep_everything(), finalize_parents()]
    assert [row.counts for row in acted] == [row.counts for row in watched]
    assert would == {(row.kind, row.run_id, row.action, row.reason) for row in LedgerEntry.objects.applied()}
    assert ("source_result.parent", str(stuck.pk), "finalize", "children_ended") in would
    assert len(would) == 6


def test_what_would_have_been_done_is_told_once_per_task_and_reason():
    job = running_job(2 * HOUR)
    switched(mode=Mode.DRY_RUN)
    for number in range(3):
        row = sweep(at=NOW + number * MINUTE)
    (seen,) = LedgerEntry.objects.all()
    assert (seen.run_id, seen.task_id, seen.created_at, seen.phase) == (str(job.pk), job.task_id, NOW, "running")
    assert "rule timed_out" in seen.message
    assert row.summary == "dry_run: 1 scanned (timed_out 1)"
    CrawlJob.objects.update(task_id="another")
    sweep(at=NOW + HOUR)
    assert LedgerEntry.objects.dry_run().count() == 2


def test_the_switch_is_obeyed_within_one_batch(monkeypatch, broker):
    monkeypatch.setattr("reaper.sweeps.sweep.BATCH", 2)
    jobs = [held_job((9 - number) * HOUR) for number in range(6)]
    done = count(1)

    def is_seen_by_ada(**_):
        if next(done) == 3:
            switched(mode=Mode.OFF)

    with connected(reaped, is_seen_by_ada):
        row = sweep()
    assert [fresh(job).status for job in jobs] == [*["failed"] * 4, *["running"] * 2]
    assert (row.acted, row.deferred) == (4, 2)
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
def test_what_still_works_on_a_lost_run_is_not_killed_once_the_kind_is_off(off, monkeypatch, broker):
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
def test_what_was_never_confirmed_is_not_sent_again_once_the_kind_is_off(off, monkeypatch, broker, tmp_path):
    job = unsent_job()
    with monkeypatch.context() as patch:
        patch.setenv("CELERY_BROKER_WRITE_URL", f"redis+socket://{tmp_path}/nobody.sock")
        sweep_queued()
    if off:
        switch_off_once_all_are_judged(monkeypatch)
    row = sweep_queued(at=NOW + MINUTE)
    assert (row.acted, row.deferred) == ((0, 1) if off else (1, 0))
    assert broker.ids() == ([] if off else [fresh(job).task_id])


def test_a_person_may_act_on_a_kind_that_is_off(broker):
    job = running_job()
    switched(mode=Mode.OFF)
    with freeze_time(NOW):
        done, row = manual.act_on_run(adapter(), adapter().get(str(job.pk)), Action.FAIL, ADA)
    assert (done, fresh(job).status, row.mode) == (True, "failed", "act")


def test_a_revoke_that_is_still_owed_waits_while_only_observing(broker, monkeypatch, tmp_path):
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


# --- the brake ----------------------------------------------------------------------------------------------------

MANY = brake.HELD_LIMIT + 1


def test_most_of_many_at_once_is_held_and_goes_on_slowly():
    jobs = [running_job((100 - number) * HOUR) for number in range(MANY + 4)]
    row = sweep()
    assert (row.acted, row.deferred) == (brake.HELD_LIMIT, 5)
    (error,) = row.recorded_errors
    assert error.code == ErrorCode.BRAKE_ENGAGED
    assert error.message == (
        "25 of 25 running runs would be acted on at once, limited to 20 per sweep;"
        " to lift: manage.py reaper release crawl_job"
    )
    # The oldest come first; five are too few to be held.
    assert [fresh(job).status for job in jobs] == [*["failed"] * 20, *["running"] * 5]
    row = sweep(at=NOW + SECOND)
    assert (row.acted, row.errors) == (5, [])


def test_rows_of_an_unknown_status_do_not_count(broker):
    for _ in range(MANY):
        unsent_job()
        running_job(status="dreaming")
    assert sweep_queued().acted == brake.HELD_LIMIT


def test_as_many_that_are_not_most_are_not_held():
    for _ in range(MANY):
        running_job(2 * HOUR)
    for _ in range(MANY):
        held_job(MINUTE, worker="celery@w3/abc")
    row = sweep()
    assert (row.scanned, row.acted, row.errors) == (2 * MANY, MANY, [])


def test_a_release_lets_all_go_while_it_lasts():
    switched(released_until=NOW + SECOND)
    for _ in range(MANY):
        running_job(2 * HOUR)
    assert sweep().acted == MANY
    for _ in range(MANY):
        running_job(2 * HOUR)
    assert sweep(at=NOW + SECOND).acted == brake.HELD_LIMIT


def test_messages_that_are_all_lost_are_sent_slowly(broker):
    jobs = [lost_job(MINUTE) for _ in range(MANY)]
    row = sweep_queued()
    assert (row.acted, row.deferred, len(broker.ids())) == (brake.HELD_LIMIT, 1, brake.HELD_LIMIT)
    assert sum(fresh(job).task_id != job.task_id for job in jobs) == brake.HELD_LIMIT


def test_children_of_ended_parents_are_closed_however_many_they_are():
    job = parent(status="completed", finalized_at=NOW)
    for _ in range(MANY):
        child(job, "running")
    row = sweep("source_result")
    assert (row.acted, row.errors) == (MANY, [])


def test_what_was_never_confirmed_is_sent_again_however_many_they_are(broker, monkeypatch, tmp_path):
    switched(released_until=NOW + SECOND)
    for _ in range(MANY):
        unsent_job()
    with monkeypatch.context() as patch:
        patch.setenv("CELERY_BROKER_WRITE_URL", f"redis+socket://{tmp_path}/nobody.sock")
        assert sweep_queued().acted == MANY
    row = sweep_queued(at=NOW + MINUTE)
    assert (row.acted, row.errors, len(broker.ids())) == (MANY, [], MANY)


# --- many workers that fall silent together -----------------------------------------------------------------------


def silent(number, ago=MINUTE):
    """A worker that is not heard of any more, and its job."""
    job = running_job(5 * MINUTE, worker=f"celery@s{number}/abc")
    report(job.worker, silent=ago, active={job.task_id: (NOW - ago).timestamp()})
    return job


def test_when_most_workers_fall_silent_together_nothing_is_taken_from_them(limits):
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
def test_until_any_worker_has_been_back_for_the_silence_limit(since, status):
    report("celery@w1/abc")
    jobs = [silent(number) for number in range(3)]
    report("celery@new/abc", since=NOW - since * SECOND)
    with freeze_time(NOW, tick=True):
        sweep_phase(adapter(), Phase.RUNNING)
    assert {fresh(job).status for job in jobs} == {status}


def test_another_queue_is_not_concerned():
    report("celery@w1/abc")
    report("celery@w2/abc", queues=["other"])
    for number in range(4):
        job = silent(number)
        report(job.worker, silent=MINUTE, queues=["other"], active={job.task_id: 0})
    with freeze_time(NOW, tick=True):
        row = sweep_phase(adapter(), Phase.RUNNING)
    assert (row.counts, row.errors) == ({"orphaned": 4}, [])


# --- single runs --------------------------------------------------------------------------------------------------


def test_an_exempted_run_is_left_alone_until_its_time_is_over():
    mine, other = running_job(2 * HOUR), running_job(2 * HOUR)
    exempt_run(adapter(), str(mine.pk), ADA, NOW, NOW + HOUR)
    row = sweep()
    assert (fresh(mine).status, fresh(other).status) == ("running", "failed")
    assert row.counts == {"exempt": 1, "timed_out": 1}
    assert sweep(at=NOW + HOUR - SECOND).acted == 0
    assert sweep(at=NOW + HOUR).acted == 1


def test_a_run_that_is_exempted_for_good_is_looked_after_again_once_that_is_ended(broker):
    job = lost_job()
    exempt_run(adapter(), str(job.pk), ADA, NOW, None)
    assert sweep_queued(at=NOW + 100 * HOUR).counts == {"exempt": 1}
    assert [remove_exemption(adapter(), str(job.pk)) for _ in range(2)] == [True, False]
    assert sweep_queued().acted == 1


def test_an_exemption_is_of_one_kind_and_may_be_renewed():
    job = sent_child()
    exempt_run(adapter(), str(job.pk), ADA, NOW, None)
    assert exempt_ids(adapter("source_result"), [str(job.pk)], NOW) == set()
    exempt_run(adapter(), str(job.pk), "bob", NOW, NOW + HOUR)
    (row,) = Exemption.objects.all()
    assert (row.actor, row.until) == ("bob", NOW + HOUR)
    assert exempt_ids(adapter(), [str(job.pk), "other"], NOW + SECOND) == {str(job.pk)}


def test_a_person_may_act_on_a_run_that_is_exempted(broker):
    job = running_job()
    exempt_run(adapter(), str(job.pk), ADA, NOW, None)
    with freeze_time(NOW):
        done, _ = manual.act_on_run(adapter(), adapter().get(str(job.pk)), Action.FAIL, ADA)
    assert (done, fresh(job).status) == (True, "failed")


def test_a_sweep_asks_for_the_switches_a_bounded_number_of_times():
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
