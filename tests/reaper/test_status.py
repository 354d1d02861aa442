"""`manage.py reaper status`, and the JSON of the subcommands that only say a sentence."""

import json

import pytest

from reaper import schedules
from reaper.conf import settings as conf
from reaper.controls import modes as switches
from reaper.controls import overrides as policies
from reaper.core.policy import Mode
from reaper.models import Alert
from tests.factories import HOUR, MINUTE, NOW, fresh, held_job, orphan, queued_job, report, running_job, swept
from tests.reaper.admin.pages import failed_job
from tests.reaper.command import MISSING, named, reaper

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker", "limits")]


def asked(*words):
    """The exit code and the JSON."""
    code, out, _ = reaper(*words, "--json")
    return code, json.loads(out)


def test_where_all_is_well_it_says_so():
    swept()
    held_job(MINUTE)
    code, out, err = reaper("status")
    assert (code, err, out.splitlines()[-1]) == (0, "", "Nothing is stuck, and every sweep is on time.")
    assert "  running: 1, the oldest for 1 min" in out
    assert "  queued: 0" in out


def test_what_is_stuck_is_named_with_its_verdict():
    swept()
    job = orphan()
    code, out, _ = reaper("status")
    assert code == 1
    line = next(line for line in out.splitlines() if named(job) in line)
    assert line.split()[-2:] == ["fail", "orphaned"]
    assert "stuck runs: 1" in out
    assert "celery@dead" in out


def test_the_reaper_itself_its_workers_and_its_queues_are_told():
    report("celery@w1/1", queues=["crawl", "mail"], draining=True)
    Alert.objects.create(
        name="backlog", kind="crawl_job", opened_at=NOW, seen_at=NOW, message="many", acknowledged_by="ada"
    )
    switches.set_controls(conf.adapters()["crawl_job"], "ada", NOW, mode=Mode.OFF)
    code, out, _ = reaper("status")
    assert code == 1
    for text in (
        "backlog crawl_job: many (seen by ada)",
        "running: switched_off: mode set to off by ada",
        "source_result",
        "running: sweep_overdue: never swept",
        "crawl: 0 waiting",
    ):
        assert text in out
    worker = next(line for line in out.splitlines() if line.startswith("celery@w1"))
    assert worker.split()[:2] == ["celery@w1", "draining"]
    assert worker.rstrip().endswith("crawl, mail")


def test_a_kind_that_cannot_be_read_is_told(monkeypatch):
    monkeypatch.setattr(type(conf.adapters()["source_result"]), "summarize", lambda *arguments: 1 / 0)
    code, out, _ = reaper("status")
    assert (code, "It cannot be read: ZeroDivisionError: division by zero" in out) == (1, True)


def test_its_json_has_it_all():
    swept()
    job = orphan()
    queued_job()
    code, found = asked("status")
    assert (code, found["schema"], found["is_healthy"]) == (1, 2, False)
    assert [(run["id"], run["action"], run["reason"]) for run in found["runs"]] == [(str(job.pk), "fail", "orphaned")]
    kind = found["kinds"][0]
    assert (kind["kind"], kind["mode"], kind["unfinished"], kind["stuck_runs"]) == (
        "crawl_job", "act", {"running": 1, "queued": 1}, 1,
    )  # fmt: skip
    assert {each["worker"]: each["state"] for each in found["workers"]}["celery@dead/abc"] == "dead"
    assert found["queues"]["crawl"] == 0


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("fail", "{run}"), 0, "{run} was failed."),
        (("requeue", "{run}"), 0, "{run} was requeued."),
        (("mode", "crawl_job", "off"), 0, "crawl_job: mode off. Its sweeps do nothing from now on."),
        (("exempt", "{run}", "0"), 1, "{run} was not exempted."),
    ],
)
def test_what_says_a_sentence_has_it_as_json(words, code, says):
    run = named(running_job(HOUR))
    found = asked(*(word.format(run=run) for word in words))
    assert found == (code, {"schema": 2, "succeeded": code == 0, "message": [says.format(run=run)]})


def test_schedules_are_a_line_each():
    schedules.create("default")
    code, found = asked("schedules")
    assert (code, len(found["message"])) == (0, 6)


def test_the_policys_json_has_each_threshold_with_its_origin():
    policies.set_overrides(conf.adapters()["crawl_job"], "ada", NOW, {"run_timeout": 2 * HOUR})
    code, found = asked("policy", "crawl_job")
    assert (code, found["policy"]["run_timeout"]) == (0, {"value": 7200.0, "source": "override by ada on 2026-03-01"})
    assert set(found["policy"]) >= set(policies.OVERRIDABLE)


def test_a_run_is_reopened_by_the_command():
    job, _ = failed_job()
    code, out, err = reaper("reopen", named(job), "--user", "ada")
    assert (code, out.strip(), err) == (0, f"{named(job)} was reopened.", "")
    assert fresh(job).status == "running"
    code, _, err = reaper("reopen", named(job))
    assert (code, "cannot be reopened" in err) == (1, True)
    assert reaper("reopen", f"crawl_job:{MISSING}").code == 2
