"""The option that Celery's command line lacks, on the Celery that is installed."""

import importlib
import sys

import click
import pytest
from celery.bin import control as celerys
from click.testing import CliRunner

from config import command_line


@pytest.fixture
def said():
    """A command that looks like Celery's `control`, and what it was called with."""
    calls = []

    @click.command(context_settings={"allow_extra_args": True})
    @click.argument("command")
    @click.option("--timeout", type=float, default=1.0)
    @click.pass_context
    def control(ctx, **options):
        calls.append((options["command"], ctx.args, options["timeout"]))

    command_line.add_terminate(control)
    return lambda *words: (CliRunner().invoke(control, words), calls)


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (["revoke", "a", "b", "--terminate"], ("terminate", ["SIGTERM", "a", "b"], 1)),
        (["revoke", "--terminate", "a", "--timeout", "3"], ("terminate", ["SIGTERM", "a"], 3)),
        (["revoke", "a"], ("revoke", ["a"], 1)),
        (["terminate", "SIGKILL", "a"], ("terminate", ["SIGKILL", "a"], 1)),
    ],
)
def test_revoke_terminate_is_celerys_own_terminate(said, words, call):
    result, calls = said(*words)
    assert (result.exit_code, calls) == (0, [call])


@pytest.mark.parametrize("words", [["ping", "--terminate"], ["revoke", "--terminate"]])
def test_terminate_belongs_to_revoke_and_needs_a_task(said, words):
    result, calls = said(*words)
    assert (result.exit_code, calls) == (2, [])
    assert "--terminate is an option of revoke TASK_ID" in result.output


@pytest.mark.parametrize("change", ["gone", "another thing"])
def test_another_celery_costs_the_option_and_a_warning_and_nothing_else(monkeypatch, change):
    monkeypatch.delitem(sys.modules, "config.command_line")
    if change == "gone":
        monkeypatch.delattr(celerys, "control")
    else:
        monkeypatch.setattr(celerys, "control", object())
    with pytest.warns(UserWarning, match="terminate SIGTERM ID"):
        importlib.import_module("config.command_line")
