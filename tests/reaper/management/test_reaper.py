"""The command itself: one line for what is wrong, one shape of JSON, and the exit codes."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

from reaper.core.facts import Evidence
from tests.factories import HOUR, running_job
from tests.reaper.command import MISSING, named, reaper, reaper_json

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker", "limits")]

KINDS = "crawl_job, source_result"


@pytest.mark.parametrize(
    ("words", "tells"),
    [
        (["sweep", "--kind", "nope"], ["'nope'", KINDS]),
        (["sweep", "--foo"], ["--foo", "--help"]),
        (["sweep", "more"], ["more", "--help"]),
        (["diagnose", "--kind", "crawl_job"], ["--kind"]),
        (["explain"], ["KIND:ID"]),
        (["explain", "nope:1"], ["'nope'", KINDS]),
        (["explain", "crawl_job"], ["'crawl_job'", "KIND:ID", KINDS]),
        (["explain", ":1"], ["':1'", "KIND:ID"]),
        (["explain", "crawl_job:"], ["'crawl_job:'", "KIND:ID"]),
        (["explain", "crawl_job:\n1"], [r"\n1"]),
        (["explain", "crawl_job:abc"], ["abc"]),
        (["explain", f"crawl_job:{MISSING}"], [MISSING]),
        (["fail", f"source_result:{MISSING}"], [MISSING]),
        (["requeue", "crawl_job:\0"], ["x00"]),
        (["finalize", f"crawl_job:{MISSING}"], [MISSING, "without a kind"]),
        (["swep"], ["'swep'", "'sweep'", "'diagnose'"]),
        ([], ["sweep", "diagnose", "explain"]),
    ],
)
def test_wrong_command_line_is_one_line_on_stderr_and_exits_2(words, tells):
    code, out, err = reaper(*words)
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert all(each in err for each in tells)


@pytest.mark.parametrize("pk", ["abc", MISSING])
def test_unknown_parent_is_one_line_and_exits_1(pk):
    code, out, err = reaper("finalize", pk)
    assert code == 1
    assert out == ""
    assert len(err.splitlines()) == 1
    assert pk in err


def test_call_command_with_wrong_option_raises_command_error():
    with pytest.raises(CommandError, match="--foo") as error:
        call_command("reaper", "sweep", "--foo")
    assert error.value.returncode == 2


def test_database_down_is_one_line_and_exits_1(tmp_path):
    environment = {**os.environ, "DATABASE_URL": f"postgres://nobody@:5432/{tmp_path}/nothing"}
    words = [sys.executable, "manage.py", "reaper", "diagnose"]
    done = subprocess.run(words, env=environment, cwd=settings.BASE_DIR, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "Database unavailable" in done.stderr


@pytest.mark.parametrize("words", [["sweep", "--dry-run"], ["sweep"], ["diagnose"], ["explain"]])
def test_json_of_all_subcommands_has_the_same_runs(stuck, words):
    target = [named(stuck["timed_out"])] if words == ["explain"] else []
    report = json.loads(reaper(*words, *target, "--json")[1])
    assert report["schema"] == 2
    assert all(isinstance(count, int) for count in report["reasons"].values())
    assert report["reasons"]["timed_out"] == 1
    shared = {"kind", "id", "phase", "action", "reason", "age_seconds", "alert", "evidence", "evidence_text"}
    assert all(set(run) == shared for run in report["runs"])
    run = next(run for run in report["runs"] if run["id"] == str(stuck["timed_out"].pk))
    assert run["phase"] == "running"
    assert run["action"] == "fail"
    assert run["age_seconds"] == 3601
    assert set(run["evidence"]) == {field.name for field in dataclasses.fields(Evidence)}
    assert run["evidence"]["claimant_liveness"] == "alive"
    assert run["evidence"]["holder"] == "celery@w1/abc"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("fail", "{run}"), 0, "{run} was failed."),
        (("requeue", "{run}"), 0, "{run} was requeued."),
        (("mode", "crawl_job", "off"), 0, "crawl_job: mode off. Recovery is off."),
        (("exempt", "{run}", "0"), 1, "{run} was not exempt."),
    ],
)
def test_json_of_sentences_has_outcome_and_message(words, code, says):
    run = named(running_job(HOUR))
    found = reaper_json(*(word.format(run=run) for word in words))
    assert found == (code, {"schema": 2, "succeeded": code == 0, "message": [says.format(run=run)]})
