"""`manage.py reaper status`, `diagnose` and `explain`: what they print, their JSON, and their exit codes."""

import json

import pytest

from apps.sources.models import CrawlJob
from reaper.conf import settings as conf
from reaper.controls.modes import set_controls
from reaper.core.policy import Mode
from reaper.models import Alert, RefusedWrite, Sweep
from tests.factories import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    fresh,
    held_job,
    lost_job,
    orphan,
    queued_job,
    report,
    running_job,
    source,
    swept,
)
from tests.reaper.command import everything, named, reaper, reaper_json

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker", "limits")]


def test_status_with_nothing_stuck_exits_0_and_reports_it():
    swept()
    held_job(MINUTE)
    code, out, err = reaper("status")
    assert code == 0
    assert err == ""
    assert out.splitlines()[-1] == "Nothing is stuck, and every sweep is on time."
    assert "  running: 1, oldest 1 min" in out
    assert "  queued: 0" in out


def test_status_names_stuck_run_with_action_and_reason():
    swept()
    job = orphan()
    code, out, _ = reaper("status")
    assert code == 1
    line = next(line for line in out.splitlines() if named(job) in line)
    assert line.split()[-4:] == ["fail", "Worker", "lost", "(orphaned)"]
    assert "stuck runs: 1" in out
    assert "celery@dead" in out


def test_status_shows_alerts_controls_sweeps_workers_and_queues():
    report("celery@w1/1", queues=["crawl", "mail"], draining=True)
    Alert.objects.create(
        name="backlog", kind="crawl_job", opened_at=NOW, seen_at=NOW, message="many", acknowledged_by="ada"
    )
    set_controls(conf.adapters()["crawl_job"], "ada", NOW, mode=Mode.OFF)
    code, out, _ = reaper("status")
    assert code == 1
    for text in (
        "backlog crawl_job: many (acknowledged by ada)",
        "running: switched_off: mode set to off by ada",
        "source_result",
        "running: sweep_overdue: never swept",
        "crawl: 0 waiting",
    ):
        assert text in out
    worker = next(line for line in out.splitlines() if line.startswith("celery@w1"))
    assert worker.split()[:2] == ["celery@w1", "draining"]
    assert worker.rstrip().endswith("crawl, mail")


def test_status_of_unreadable_kind_exits_1_with_reason(monkeypatch):
    monkeypatch.setattr(type(conf.adapters()["source_result"]), "summarize", lambda *arguments: 1 / 0)
    code, out, _ = reaper("status")
    assert code == 1
    assert "These runs cannot be read: ZeroDivisionError: division by zero" in out


def test_status_json_has_runs_kinds_workers_and_queues():
    swept()
    job = orphan()
    queued_job()
    code, found = reaper_json("status")
    assert code == 1
    assert found["schema"] == 2
    assert not found["is_healthy"]
    assert [(run["id"], run["action"], run["reason"]) for run in found["runs"]] == [(str(job.pk), "fail", "orphaned")]
    kind = found["kinds"][0]
    assert kind["kind"] == "crawl_job"
    assert kind["mode"] == "act"
    assert kind["unfinished"] == {"running": 1, "queued": 1}
    assert kind["stuck_runs"] == 1
    assert {each["worker"]: each["state"] for each in found["workers"]}["celery@dead/abc"] == "dead"
    assert found["queues"]["crawl"] == 0


def test_diagnose_with_nothing_stuck_exits_0_and_reports_it():
    queued_job()
    reaper("sweep")
    code, out, _ = reaper("diagnose")
    assert code == 0
    assert "Nothing is stuck, and every sweep is on time." in out


@pytest.mark.parametrize(
    ("later", "code", "overdue"), [(15, 0, set()), (16, 1, {"running"}), (91, 1, {"running", "queued"})]
)
def test_sweep_is_overdue_after_three_of_its_intervals(later, code, overdue):
    reaper("sweep", "--kind", "crawl_job")
    reaper("sweep")
    got, out, _ = reaper("diagnose", "--json", at=NOW + later * SECOND)
    assert got == code
    sweeps = [each for kind in json.loads(out)["kinds"] for each in kind["sweeps"]]
    assert {each["phase"] for each in sweeps if "sweep_overdue" in each["conditions"]} == overdue


def test_diagnose_lists_stuck_and_late_runs_and_writes_nothing(stuck):
    before = everything()
    code, out, _ = reaper("diagnose")
    assert code == 1
    assert everything() == before
    for name, run in stuck.items():
        name = {"in_progress": "long_running"}.get(name, name)
        assert any(str(run.pk) in line and name in line for line in out.splitlines()), name
    assert "stuck runs: 5, parents to complete: 1, problems of sweeps: 5" in out


def test_diagnose_prints_the_first_100_runs_and_json_has_all():
    site = source()
    CrawlJob.objects.bulk_create(
        CrawlJob(source=site, status="running", started_at=NOW - 2 * HOUR, task_id=str(n)) for n in range(102)
    )
    _, out, _ = reaper("diagnose")
    assert out.count("crawl_job:") == 100
    assert "… and 2 more; --json lists them all." in out
    assert len(json.loads(reaper("diagnose", "--json")[1])["runs"]) == 102


def test_diagnose_shows_problems_of_the_last_sweep():
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


def test_explain_prints_facts_next_action_and_limits():
    job = held_job(HOUR + 3 * 60 * SECOND, heartbeat_at=NOW - 58 * 60 * SECOND)
    code, out, _ = reaper("explain", named(job))
    assert code == 0
    facts = f"running for 1 h 3 min, started by celery@w1/abc, last progress 58 min ago, task id {job.task_id}"
    assert facts in out
    assert "It would be failed and its task killed: it was running longer than its run timeout (rule timed_out)." in out
    assert "run_timeout 1 h" in out
    assert "has not acted on it" in out


def test_explain_prints_history():
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
def test_explain_of_finished_or_unknown_run_reports_no_action(status):
    code, out, _ = reaper("explain", named(running_job(2 * HOUR, status=status)))
    assert code == 0
    assert "No action: " in out
