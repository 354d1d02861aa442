"""`celery control revoke --terminate`, which Celery itself lacks, with the installed Celery."""

import importlib
import sys

import click
import pytest
from celery.bin import control as celerys
from click.testing import CliRunner

from config import command_line


@pytest.fixture
def invoke_control():
    """A function that invokes a stand-in for Celery's `control` and returns the result and the calls."""
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
def test_revoke_terminate_calls_celerys_terminate(invoke_control, words, call):
    result, calls = invoke_control(*words)
    assert result.exit_code == 0
    assert calls == [call]


@pytest.mark.parametrize("words", [["ping", "--terminate"], ["revoke", "--terminate"]])
def test_terminate_option_without_revoke_or_task_is_refused(invoke_control, words):
    result, calls = invoke_control(*words)
    assert result.exit_code == 2
    assert calls == []
    assert "--terminate is an option of revoke TASK_ID" in result.output


@pytest.mark.parametrize("change", ["gone", "another thing"])
def test_unknown_celery_command_line_costs_the_option_with_a_warning(monkeypatch, change):
    monkeypatch.delitem(sys.modules, "config.command_line")
    if change == "gone":
        monkeypatch.delattr(celerys, "control")
    else:
        monkeypatch.setattr(celerys, "control", object())
    with pytest.warns(UserWarning, match="terminate SIGTERM ID"):
        importlib.import_module("config.command_line")
