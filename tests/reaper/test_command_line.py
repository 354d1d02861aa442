"""The command's manners: one line for what is wrong, one shape of JSON, colour on a terminal, whole lines in a pipe."""

import dataclasses
import json
import os
import subprocess
import sys
from contextlib import suppress
from io import StringIO

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from freezegun import freeze_time

from reaper.core.facts import Evidence
from tests.factories import NOW
from tests.reaper.command import MISSING, named, reaper, stuck_runs

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker", "limits")]


@pytest.fixture
def stuck():
    return stuck_runs()


# --- bad input --------------------------------------------------------------------------------------------------------

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
def test_a_wrong_command_line_is_one_line_on_stderr_and_exits_2(words, tells):
    code, out, err = reaper(*words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert all(each in err for each in tells)


@pytest.mark.parametrize("pk", ["abc", MISSING])
def test_an_unknown_parent_is_one_line_and_exits_1(pk):
    code, out, err = reaper("finalize", pk)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert pk in err


def test_a_program_that_calls_the_command_gets_a_command_error():
    with pytest.raises(CommandError, match="--foo") as error:
        call_command("reaper", "sweep", "--foo")
    assert error.value.returncode == 2


def test_a_database_that_is_down_is_one_line_and_exits_1(tmp_path):
    environment = {**os.environ, "DATABASE_URL": f"postgres://nobody@:5432/{tmp_path}/nothing"}
    words = [sys.executable, "manage.py", "reaper", "diagnose"]
    done = subprocess.run(words, env=environment, cwd=settings.BASE_DIR, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "The database does not answer as it should" in done.stderr


# --- the shape of what is printed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["sweep", "--dry-run"], ["sweep"], ["diagnose"], ["explain"]])
def test_the_json_has_one_shape(stuck, words):
    target = [named(stuck["timed_out"])] if words == ["explain"] else []
    report = json.loads(reaper(*words, *target, "--json")[1])
    assert report["schema"] == 2
    assert all(isinstance(count, int) for count in report["reasons"].values())
    assert report["reasons"]["timed_out"] == 1
    shared = {"kind", "id", "phase", "action", "reason", "age_seconds", "alert", "evidence", "evidence_text"}
    assert all(set(run) == shared for run in report["runs"])
    run = next(run for run in report["runs"] if run["id"] == str(stuck["timed_out"].pk))
    assert (run["phase"], run["action"], run["age_seconds"]) == ("running", "fail", 3601)
    assert set(run["evidence"]) == {field.name for field in dataclasses.fields(Evidence)}
    assert (run["evidence"]["claimant_liveness"], run["evidence"]["holder"]) == ("alive", "celery@w1/abc")


class Terminal(StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("columns", ["60", "80", "120"])
def test_a_terminal_gets_colour_and_ids_in_full_however_narrow(stuck, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    with freeze_time(NOW):
        call_command("reaper", "sweep", "--dry-run", stdout=out)
    assert "\x1b[" in out.getvalue()
    assert named(stuck["parent_ended"]) in out.getvalue()
    assert "parent_ended" in out.getvalue()


@pytest.mark.parametrize(
    ("words", "what"), [(["sweep"], "Sweeping"), (["sweep", "--dry-run"], "Judging"), (["diagnose"], "Judging")]
)
def test_a_terminal_is_shown_how_far_long_work_has_come_and_a_pipe_is_not(stuck, monkeypatch, words, what):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm-256color")
    out, pipe = Terminal(), StringIO()
    for stream in (pipe, out):
        with freeze_time(NOW), suppress(SystemExit):
            call_command("reaper", *words, stdout=stream)
    assert what in out.getvalue()
    assert " of " in out.getvalue()
    assert what not in pipe.getvalue()


@pytest.mark.parametrize("words", [["sweep", "--dry-run"], ["diagnose"], ["explain"]])
def test_a_pipe_gets_plain_lines_that_are_neither_cut_nor_wrapped(stuck, words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    run = stuck["parent_ended"]
    _, out, _ = reaper(*words, *([named(run)] if words == ["explain"] else []))
    assert "\x1b" not in out
    assert any(named(run) in line for line in out.splitlines())
    assert any("parent_ended" in line for line in out.splitlines())
    if words == ["explain"]:
        assert any(run.task_id in line and str(run.crawl_job_id) in line for line in out.splitlines())
