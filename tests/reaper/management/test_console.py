"""What a terminal and a pipe get: colour and progress there, whole plain lines here."""

from contextlib import suppress
from io import StringIO

import pytest
from django.core.management import call_command
from freezegun import freeze_time

from tests.factories import NOW
from tests.reaper.command import named, reaper

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker", "limits")]


class Terminal(StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("columns", ["60", "80", "120"])
def test_terminal_gets_colour_and_whole_ids_at_any_width(stuck, monkeypatch, columns):
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
    ("words", "phase_word"), [(["sweep"], "Sweeping"), (["sweep", "--dry-run"], "Judging"), (["diagnose"], "Judging")]
)
def test_terminal_shows_progress_and_pipe_does_not(stuck, monkeypatch, words, phase_word):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm-256color")
    out, pipe = Terminal(), StringIO()
    for stream in (pipe, out):
        with freeze_time(NOW), suppress(SystemExit):
            call_command("reaper", *words, stdout=stream)
    assert phase_word in out.getvalue()
    assert " of " in out.getvalue()
    assert phase_word not in pipe.getvalue()


@pytest.mark.parametrize("words", [["sweep", "--dry-run"], ["diagnose"], ["explain"]])
def test_pipe_gets_plain_lines_neither_cut_nor_wrapped(stuck, words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    run = stuck["parent_ended"]
    _, out, _ = reaper(*words, *([named(run)] if words == ["explain"] else []))
    assert "\x1b" not in out
    assert any(named(run) in line for line in out.splitlines())
    assert any("parent_ended" in line for line in out.splitlines())
    if words == ["explain"]:
        assert any(run.task_id in line and str(run.crawl_job_id) in line for line in out.splitlines())
