"""`manage.py reaper …` as a person meets it: what it finds, what it does, and its exit codes."""

import getpass
import json

import pytest
from django.core.management import call_command
from django_celery_beat.models import PeriodicTask

from apps.sources.models import CrawlJob
from reaper.core import brake
from reaper.models import KindControl, LedgerEntry, RefusedWrite, Sweep
from tests.factories import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    fresh,
    held_job,
    lost_job,
    parent,
    queued_job,
    report,
    running_job,
    source,
)
from tests.reaper.command import everything, named, reaper, stuck_runs

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker", "limits")]


@pytest.fixture
def stuck():
    return stuck_runs()


# --- sweep ------------------------------------------------------------------------------------------------------------


def test_sweep_acts_on_everything_that_is_stuck_and_says_so(stuck):
    code, out, err = reaper("sweep")
    assert (code, err) == (0, "")
    assert {name: fresh(run).status for name, run in stuck.items()} == {
        "timed_out": "failed",
        "orphaned": "failed",
        "lost": "pending",
        "never_sent": "pending",
        "parent_ended": "skipped",
        "children_ended": "completed",
        "in_progress": "running",
    }
    for name in ("timed_out", "orphaned", "lost", "never_sent", "parent_ended"):
        line = next(line for line in out.splitlines() if named(stuck[name]) in line)
        assert name in line
    assert named(stuck["in_progress"]) not in out
    assert "swept crawl_job running: 3 scanned, 2 acted on (in_progress 1, orphaned 1, timed_out 1)" in out


def test_sweep_of_one_kind_leaves_the_other(stuck):
    assert reaper("sweep", "--kind", "source_result")[0] == 0
    assert fresh(stuck["parent_ended"]).status == "skipped"
    assert fresh(stuck["timed_out"]).status == "running"


@pytest.mark.parametrize("more", [[], ["--json"], ["--kind", "crawl_job"]])
def test_a_dry_run_writes_nothing_at_all_and_sends_nothing(stuck, broker, more):
    before = everything()
    code, out, err = reaper("sweep", "--dry-run", *more)
    assert (code, err) == (0, "")
    assert everything() == before
    assert str(stuck["timed_out"].pk) in out
    assert (broker.waiting(), broker.revokes()) == ([], [])


def test_a_dry_run_and_the_sweep_after_it_agree(stuck):
    runs = {}
    for words in (["--dry-run"], []):
        report = json.loads(reaper("sweep", "--json", *words)[1])
        runs[bool(words)] = sorted(
            (run["id"], run["action"], run["reason"], run["age_seconds"]) for run in report["runs"]
        )
    assert runs[True] == runs[False]
    assert len(runs[True]) == 6


def test_a_dry_run_tells_that_the_brake_would_hold_the_sweep_until_it_is_released():
    for _ in range(brake.HELD_LIMIT + 1):
        running_job(2 * HOUR)
    held = f"{brake.HELD_LIMIT + 1} of {brake.HELD_LIMIT + 1} running runs would be acted on at once"
    code, _, err = reaper("sweep", "--dry-run")
    assert (code, err.count(held)) == (1, 1)
    assert not Sweep.objects.exists()
    assert held in reaper("sweep")[2], "as it says of the sweep itself"
    reaper("release", "crawl_job")
    assert reaper("sweep", "--dry-run")[::2] == (0, "")


def test_a_dry_run_tells_that_workers_fell_silent_together():
    for number in range(3):
        job = running_job(5 * MINUTE, worker=f"celery@s{number}/abc")
        report(job.worker, silent=MINUTE, active={job.task_id: 0})
    code, _, err = reaper("sweep", "--dry-run")
    assert (code, err.count("3 of 3 workers of queue crawl lost heartbeat together")) == (1, 1)


def test_a_broker_that_is_down_is_told_and_is_not_well(stuck, refusing_broker):
    code, _, err = reaper("sweep")
    assert code == 1
    assert "crawl_job running: the broker did not answer" in err
    assert "Traceback" not in err
    assert fresh(stuck["timed_out"]).status == "failed"


# --- diagnose ---------------------------------------------------------------------------------------------------------


def test_diagnose_is_well_when_nothing_is_stuck_and_the_sweeps_are_on_time():
    queued_job()
    reaper("sweep")
    code, out, _ = reaper("diagnose")
    assert code == 0
    assert "Nothing is stuck, and every sweep is on time." in out


@pytest.mark.parametrize(
    ("later", "code", "overdue"), [(15, 0, set()), (16, 1, {"running"}), (91, 1, {"running", "queued"})]
)
def test_a_sweep_is_overdue_after_three_of_its_intervals(later, code, overdue):
    reaper("sweep", "--kind", "crawl_job")
    reaper("sweep")
    got, out, _ = reaper("diagnose", "--json", at=NOW + later * SECOND)
    assert got == code
    sweeps = [each for kind in json.loads(out)["kinds"] for each in kind["sweeps"]]
    assert {each["phase"] for each in sweeps if "sweep_overdue" in each["conditions"]} == overdue


def test_diagnose_lists_what_is_stuck_and_what_is_worth_a_look_and_writes_nothing(stuck):
    before = everything()
    code, out, _ = reaper("diagnose")
    assert code == 1
    assert everything() == before
    for name, run in stuck.items():
        name = {"in_progress": "long_running"}.get(name, name)
        assert any(str(run.pk) in line and name in line for line in out.splitlines()), name
    assert "stuck runs: 5; stuck parents: 1; problems of sweeps: 5" in out


def test_diagnose_prints_the_first_hundred_only_and_json_has_all():
    site = source()
    CrawlJob.objects.bulk_create(
        CrawlJob(source=site, status="running", started_at=NOW - 2 * HOUR, task_id=str(n)) for n in range(102)
    )
    _, out, _ = reaper("diagnose")
    assert out.count("crawl_job:") == 100
    assert "… and 2 more; --json lists them all." in out
    assert len(json.loads(reaper("diagnose", "--json")[1])["runs"]) == 102


def test_diagnose_tells_what_the_last_sweep_complained_of():
    Sweep.objects.create(
        kind="crawl_job",
        phase="queued",
        started_at=NOW,
        finished_at=NOW,
        errors=[{"code": "broker_unavailable", "message": "no broker"}],
    )
    Sweep.objects.create(kind="crawl_job", phase="running", started_at=NOW)
    _, out, _ = reaper("diagnose")
    assert "crawl_job queued: no broker" in out
    assert "crawl_job running: the sweep that started at 12:00:00 has not ended" in out


# --- explain ----------------------------------------------------------------------------------------------------------


def test_explain_tells_a_run_in_sentences():
    job = held_job(HOUR + 3 * 60 * SECOND, heartbeat_at=NOW - 58 * 60 * SECOND)
    code, out, _ = reaper("explain", named(job))
    assert code == 0
    assert f"has been running for 1 h 3 min, started by celery@w1/abc, last progress 58 min ago, task id {job.task_id}"
    assert "It would be failed and its task killed: it was running longer than its run timeout (rule timed_out)." in out
    assert "run_timeout 1 h" in out
    assert "done nothing to it" in out


def test_explain_tells_what_happened_before():
    job = lost_job(16 * MINUTE)
    reaper("sweep")
    RefusedWrite.objects.create(
        created_at=NOW,
        kind="crawl_job",
        run_id=str(job.pk),
        task_id=job.task_id,
        worker="celery@w1/abc",
        write="complete",
    )
    _, out, _ = reaper("explain", named(job))
    assert "Requeued by the reaper: its message is gone and no worker has its task (rule lost)" in out
    assert f"old task {job.task_id}, new task {fresh(job).task_id}" in out
    assert f"Rejected a late complete of task {job.task_id} on celery@w1/abc." in out
    report = json.loads(reaper("explain", named(job), "--json")[1])
    assert [event["action"] for event in report["history"]] == ["requeue", "rejected"]


@pytest.mark.parametrize("status", ["completed", "paused"])
def test_explain_leaves_other_runs_alone(status):
    code, out, _ = reaper("explain", named(running_job(2 * HOUR, status=status)))
    assert code == 0
    assert "No action: " in out


# --- by hand ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("verb", "status"), [("fail", "failed"), ("requeue", "pending")])
@pytest.mark.parametrize("make", [running_job, queued_job])
def test_a_run_is_ended_or_requeued_by_hand_under_the_users_name(broker, verb, status, make):
    job = make()
    code, _, err = reaper(verb, named(job), "--user", "ann")
    assert (code, err) == (0, "")
    row = LedgerEntry.objects.get()
    assert (fresh(job).status, row.actor, row.action) == (status, "ann", verb)
    assert broker.ids() == [row.new_task_id] * (verb == "requeue")
    assert [revoke.ids for revoke in broker.revokes()] == [[job.task_id]]


@pytest.mark.parametrize("verb", ["fail", "requeue"])
@pytest.mark.parametrize(("status", "why"), [("completed", "has ended"), ("paused", "is neither waiting nor running")])
def test_a_run_that_is_not_unfinished_is_left_and_exits_1(verb, status, why):
    job = queued_job(status=status)
    code, out, err = reaper(verb, named(job))
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert why in err
    assert not LedgerEntry.objects.exists()


def test_a_run_that_moves_on_meanwhile_is_left_and_exits_1(monkeypatch):
    job = running_job()
    # Who is logged in is asked between the reading and the writing.
    monkeypatch.setattr(getpass, "getuser", lambda: CrawlJob.objects.update(status="completed") and "ann")
    code, out, err = reaper("fail", named(job))
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "has moved on" in err
    assert fresh(job).status == "completed"


def test_a_requeue_without_a_broker_is_in_the_ledger(refusing_broker):
    job = running_job()
    code, out, err = reaper("requeue", named(job))
    assert code == 1
    assert "was requeued" in out
    assert "in the ledger: the next sweep publishes its new task" in err
    assert LedgerEntry.objects.get().published_at is None


def nobody():
    raise KeyError("getpwuid(): uid not found")


def test_a_container_whose_user_has_no_name_can_act_too(monkeypatch):
    monkeypatch.setattr(getpass, "getuser", nobody)
    assert reaper("fail", named(running_job()))[0] == 0
    assert LedgerEntry.objects.get().actor.startswith("uid ")


def test_an_empty_or_endless_user_name_is_no_way_around_the_ledger():
    reaper("fail", named(running_job()), "--user", " ")
    reaper("fail", named(running_job()), "--user", "x" * 999)
    assert all(1 <= len(actor) <= 200 for actor in LedgerEntry.objects.values_list("actor", flat=True))


def test_manual_completion_of_parent_happens_once():
    job = parent("completed", "failed")
    assert reaper("finalize", str(job.pk), "--user", "ann")[0] == 0
    assert fresh(job).status == "completed"
    assert LedgerEntry.objects.get().actor == "ann"
    code, out, err = reaper("finalize", str(job.pk))
    assert (code, out, len(err.splitlines())) == (1, "", 1)


# --- schedules --------------------------------------------------------------------------------------------------------


def test_schedules_are_listed_and_removed():
    call_command("migrate", verbosity=0)
    code, out, err = reaper("schedules")
    assert (code, len(out.splitlines()), err) == (0, 6, "")
    assert "reaper.tasks.sweep_running: on, every 5 seconds" in out
    PeriodicTask.objects.filter(task="reaper.tasks.sweep_running").update(enabled=False)
    code, out, _ = reaper("schedules")
    assert code == 1
    assert "reaper.tasks.sweep_running: off, every 5 seconds" in out

    code, out, _ = reaper("schedules", "--remove")
    assert (code, out.partition(".")[0]) == (0, "6 schedules were deleted")
    assert not PeriodicTask.objects.filter(task__startswith="reaper.").exists()
    assert reaper("schedules", "--remove")[1].startswith("0 schedules")
    code, out, _ = reaper("schedules")
    assert (code, out.count("missing")) == (1, 6)
    call_command("migrate", verbosity=0)
    assert PeriodicTask.objects.filter(task__startswith="reaper.").count() == 6


# --- switches ---------------------------------------------------------------------------------------------------------


def test_a_kind_is_switched_and_says_so():
    code, out, err = reaper("mode", "crawl_job", "dry_run", "--user", "ann")
    assert (code, out, err) == (
        0, "crawl_job: mode dry_run. Its sweeps observe, and touch nothing from now on.\n", "",
    )  # fmt: skip
    assert KindControl.objects.get().actor == "ann"
    code, out, _ = reaper("diagnose")
    assert "crawl_job running: mode set to dry_run by ann" in out
    assert reaper("mode", "crawl_job", "settings")[1].startswith("crawl_job: the settings' mode. Its sweeps act")
    assert "switched to" not in reaper("diagnose")[1]


def test_a_pause_and_a_release_say_until_when_and_are_ended_by_0():
    out = reaper("pause", "crawl_job", "2h", "--user", "ann")[1]
    assert "paused until 2026-03-01 14:00:00 UTC. Its sweeps do nothing" in out
    assert "paused by ann until 2026-03-01 14:00:00 UTC" in reaper("diagnose")[1]
    assert "paused" not in reaper("pause", "crawl_job", "0")[1]
    assert "brake released until 2026-03-01 13:00:00 UTC" in reaper("release", "crawl_job", "--user", "bob")[1]
    assert "brake overridden by bob" in reaper("diagnose")[1]
    assert "brake released until 2026-03-01 12:15:00 UTC" in reaper("release", "crawl_job", "15m")[1]
    assert "released" not in reaper("release", "crawl_job", "0")[1]


def test_a_run_is_exempted_and_readmitted():
    job = running_job(2 * HOUR)
    assert reaper("exempt", named(job), "1d")[1] == f"{named(job)} is left alone until 2026-03-02 12:00:00 UTC.\n"
    assert reaper("exempt", named(job))[1] == f"{named(job)} is left alone for good.\n"
    code, out, _ = reaper("explain", named(job))
    assert code == 0
    assert "it is exempt from recovery" in out
    assert reaper("exempt", named(job), "0")[:2] == (0, f"{named(job)} is looked after again.\n")
    assert reaper("exempt", named(job), "0")[:2] == (1, f"{named(job)} was not exempted.\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pause", "crawl_job", "soon"], "expected a duration, got 'soon': write 30s, 15m, 2h or 7d, or 0 to end it"),
        (["pause", "crawl_job", "-1h"], "required: DURATION"),
        (["pause", "crawl_job"], "required: DURATION"),
        (["pause", "crawl_job", "367d"], "expected at most a year, got 367 d: "),
        (["release", "crawl_job", "999999999d"], "expected a duration of at most a hundred years: "),
        (["mode", "crawl_job", "sleep"], "'sleep'"),
        (["mode", "crawl_jobs", "off"], "There is no kind 'crawl_jobs'"),
        (["exempt", "crawl_job"], "is not KIND:ID"),
        (["exempt", "crawl_job:7"], "There is no run 'crawl_job:7'"),
    ],
)
def test_a_wrong_switch_is_told_in_one_line_and_switches_nothing(words, said):
    code, out, err = reaper(*words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err
    assert not KindControl.objects.exists()


def test_a_sweep_that_is_held_exits_1_and_says_how_to_let_it_go():
    for _ in range(21):
        running_job(2 * HOUR)
    code, out, err = reaper("sweep")
    assert code == 1
    assert "20 acted on, 1 deferred" in out
    assert "limited to 20 per sweep; to lift: manage.py reaper release crawl_job" in err
