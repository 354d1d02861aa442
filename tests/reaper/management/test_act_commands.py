"""`manage.py reaper sweep`, `fail`, `requeue`, `reopen` and `finalize`: what they do, and their exit codes."""

import getpass
import json

import pytest

from apps.sources.models import CrawlJob
from reaper.core import brake
from reaper.models import LedgerEntry, Sweep
from tests.factories import (
    HOUR,
    MINUTE,
    fresh,
    parent,
    queued_job,
    report,
    running_job,
)
from tests.reaper.admin.pages import failed_job
from tests.reaper.command import MISSING, everything, named, reaper

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker", "limits")]


def test_sweep_recovers_every_stuck_run_and_lists_it(stuck):
    code, out, err = reaper("sweep")
    assert code == 0
    assert err == ""
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


def test_sweep_of_one_kind_leaves_the_other_unchanged(stuck):
    assert reaper("sweep", "--kind", "source_result")[0] == 0
    assert fresh(stuck["parent_ended"]).status == "skipped"
    assert fresh(stuck["timed_out"]).status == "running"


@pytest.mark.parametrize("more", [[], ["--json"], ["--kind", "crawl_job"]])
def test_dry_run_writes_and_sends_nothing(stuck, broker, more):
    before = everything()
    code, out, err = reaper("sweep", "--dry-run", *more)
    assert code == 0
    assert err == ""
    assert everything() == before
    assert str(stuck["timed_out"].pk) in out
    assert broker.waiting() == []
    assert broker.revokes() == []


def test_dry_run_and_the_next_sweep_agree(stuck):
    runs = {}
    for words in (["--dry-run"], []):
        report = json.loads(reaper("sweep", "--json", *words)[1])
        runs[bool(words)] = sorted(
            (run["id"], run["action"], run["reason"], run["age_seconds"]) for run in report["runs"]
        )
    assert runs[True] == runs[False]
    assert len(runs[True]) == 6


def test_dry_run_reports_that_the_brake_would_engage():
    for _ in range(brake.HELD_LIMIT + 1):
        running_job(2 * HOUR)
    held = f"{brake.HELD_LIMIT + 1} of {brake.HELD_LIMIT + 1} running runs would be acted on at once"
    code, _, err = reaper("sweep", "--dry-run")
    assert code == 1
    assert err.count(held) == 1
    assert not Sweep.objects.exists()
    assert held in reaper("sweep")[2], "as it says of the sweep itself"
    reaper("release", "crawl_job")
    assert reaper("sweep", "--dry-run")[::2] == (0, "")


def test_dry_run_reports_mass_silence_of_workers():
    for number in range(3):
        job = running_job(5 * MINUTE, worker=f"celery@s{number}/abc")
        report(job.worker, silent=MINUTE, active={job.task_id: 0})
    code, _, err = reaper("sweep", "--dry-run")
    assert code == 1
    assert err.count("3 of 3 workers of queue crawl lost heartbeat together") == 1


def test_sweep_with_broker_down_recovers_and_exits_1(stuck, refusing_broker):
    code, _, err = reaper("sweep")
    assert code == 1
    assert "crawl_job running: the broker did not answer" in err
    assert "Traceback" not in err
    assert fresh(stuck["timed_out"]).status == "failed"


def test_sweep_with_engaged_brake_exits_1_and_names_release_command():
    for _ in range(21):
        running_job(2 * HOUR)
    code, out, err = reaper("sweep")
    assert code == 1
    assert "20 acted on, 1 deferred" in out
    assert "limited to 20 per sweep; to lift: manage.py reaper release crawl_job" in err


@pytest.mark.parametrize(("verb", "status"), [("fail", "failed"), ("requeue", "pending")])
@pytest.mark.parametrize("make", [running_job, queued_job])
def test_fail_and_requeue_act_in_users_name(broker, verb, status, make):
    job = make()
    code, _, err = reaper(verb, named(job), "--user", "ann")
    assert code == 0
    assert err == ""
    row = LedgerEntry.objects.get()
    assert fresh(job).status == status
    assert row.actor == "ann"
    assert row.action == verb
    assert broker.ids() == [row.new_task_id] * (verb == "requeue")
    assert [revoke.ids for revoke in broker.revokes()] == [[job.task_id]]


@pytest.mark.parametrize("verb", ["fail", "requeue"])
@pytest.mark.parametrize(
    ("status", "why"), [("completed", "has finished"), ("paused", "is neither waiting nor running")]
)
def test_fail_of_run_that_is_not_unfinished_exits_1(verb, status, why):
    job = queued_job(status=status)
    code, out, err = reaper(verb, named(job))
    assert code == 1
    assert out == ""
    assert len(err.splitlines()) == 1
    assert why in err
    assert not LedgerEntry.objects.exists()


def test_fail_of_run_that_changes_concurrently_exits_1(monkeypatch):
    job = running_job()
    # Who is logged in is asked between the reading and the writing.
    monkeypatch.setattr(getpass, "getuser", lambda: CrawlJob.objects.update(status="completed") and "ann")
    code, out, err = reaper("fail", named(job))
    assert code == 1
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "changed concurrently" in err
    assert fresh(job).status == "completed"


def test_requeue_with_broker_down_is_recorded_in_ledger(refusing_broker):
    job = running_job()
    code, out, err = reaper("requeue", named(job))
    assert code == 1
    assert "was requeued" in out
    assert "recorded in the ledger: the next sweep publishes its new task" in err
    assert LedgerEntry.objects.get().published_at is None


def raise_key_error():
    raise KeyError("getpwuid(): uid not found")


def test_fail_by_user_without_a_name_records_the_uid(monkeypatch):
    monkeypatch.setattr(getpass, "getuser", raise_key_error)
    assert reaper("fail", named(running_job()))[0] == 0
    assert LedgerEntry.objects.get().actor.startswith("uid ")


def test_fail_with_empty_or_long_user_name_records_a_valid_actor():
    reaper("fail", named(running_job()), "--user", " ")
    reaper("fail", named(running_job()), "--user", "x" * 999)
    assert all(1 <= len(actor) <= 200 for actor in LedgerEntry.objects.values_list("actor", flat=True))


def test_finalize_completes_parent_once():
    job = parent("completed", "failed")
    assert reaper("finalize", str(job.pk), "--user", "ann")[0] == 0
    assert fresh(job).status == "completed"
    assert LedgerEntry.objects.get().actor == "ann"
    code, out, err = reaper("finalize", str(job.pk))
    assert code == 1
    assert out == ""
    assert len(err.splitlines()) == 1


def test_reopen_marks_run_as_running_once():
    job, _ = failed_job()
    code, out, err = reaper("reopen", named(job), "--user", "ada")
    assert code == 0
    assert out.strip() == f"{named(job)} is marked as running again."
    assert err == ""
    assert fresh(job).status == "running"
    code, _, err = reaper("reopen", named(job))
    assert code == 1
    assert "cannot be reopened" in err
    assert reaper("reopen", f"crawl_job:{MISSING}").code == 2
