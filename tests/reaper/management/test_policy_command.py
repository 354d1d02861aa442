"""`manage.py reaper policy`: shows a kind's policy, previews and sets overrides."""

import re

import pytest

from reaper.controls.overrides import OVERRIDABLE, effective_policy
from reaper.core.fields import field_docs
from reaper.core.policy import Policy
from reaper.models import LedgerEntry, PolicyOverride
from tests.factories import HOUR, MINUTE, fresh, held_job
from tests.reaper.command import reaper
from tests.reaper.controls.operators import adapter, overridden

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]
COMMAND = pytest.mark.django_db(transaction=True)


@COMMAND
def test_policy_command_shows_each_field_with_its_source():
    overridden(run_timeout=3 * HOUR)
    code, out, _ = reaper("policy", "crawl_job")
    lines = {line.split()[0]: re.split(" {2,}", line)[1:] for line in out.splitlines()}
    assert code == 0
    assert lines["run_timeout"] == ["3 h", "override by ada on 2026-03-01"]
    assert set(lines) >= set(OVERRIDABLE)


@COMMAND
def test_policy_command_explains_each_field_by_its_docstring():
    out = " ".join(reaper("policy", "crawl_job")[1].split())
    assert all(meaning in out for name, meaning in field_docs(Policy).items() if name in OVERRIDABLE)


@COMMAND
def test_policy_command_overrides_named_fields_only():
    overridden(run_timeout=3 * HOUR, max_requeues=9)
    code, out, _ = reaper("policy", "crawl_job", "RUN_TIMEOUT=2h", "on_orphan=requeue", "--user", "bob")
    assert code == 0
    changes = "run_timeout: 3 h -> 2 h; on_orphan: fail -> requeue"
    assert out.splitlines()[0] == f"crawl_job: {changes}. This takes effect with the next sweep."
    policy = effective_policy(adapter())
    assert policy.run_timeout == 2 * HOUR
    assert policy.on_orphan == "requeue"
    assert policy.max_requeues == 9
    reaper("policy", "crawl_job", "run_timeout=")
    assert effective_policy(adapter()).run_timeout == HOUR


@COMMAND
@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        ("run_timeout=0", "crawl_job: run_timeout: expected a duration above zero, got 0 s. Write "),
        ("run_timeot=2h", "The policy has no 'run_timeot'. Did you mean run_timeout?"),
        ("mode=off", "The policy has no 'mode'. Names are: "),
        ("run_timeout", "'run_timeout' is not NAME=VALUE, such as run_timeout=2h."),
    ],
)  # fmt: skip
def test_policy_command_with_invalid_value_changes_nothing(edit, sentence):
    overridden(run_timeout=3 * HOUR)
    code, _, errors = reaper("policy", "crawl_job", edit)
    assert code == 2
    assert PolicyOverride.objects.count() == 1
    assert errors.strip().removeprefix("CommandError: ").startswith(sentence)


@COMMAND
def test_policy_command_dry_run_lists_runs_and_changes_nothing():
    job = held_job(40 * MINUTE)
    code, out, _ = reaper("policy", "crawl_job", "run_timeout=35m", "alert_after=20m", "--dry-run")
    assert code == 0
    assert "run_timeout: 1 h -> 35 min; alert_after: 30 min -> 20 min" in out
    assert f"crawl_job:{job.pk}" in out
    assert "timed_out" in out
    assert "1 runs would be recovered." in out
    assert PolicyOverride.objects.count() == 0
    assert fresh(job).status == "running"
    assert LedgerEntry.objects.count() == 0
