"""Edited thresholds: what people write, what is refused of it, what counts then, and that the sweeps obey."""

import re
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from itertools import pairwise

import pytest
from django.db import connection
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st

from reaper.conf import settings as conf
from reaper.conf.validators import parse_duration
from reaper.controls import overrides as policies
from reaper.controls.forms import PolicyOverrideForm
from reaper.core.formatting import format_value
from reaper.core.policy import Action, Policy
from reaper.exceptions import InvalidValue
from reaper.models import LedgerEntry, PolicyOverride
from tests.reaper.command import reaper
from tests.reaper.test_sweeps import sweep
from tests.worlds import COMMITTED, HOUR, MINUTE, NOW, SECOND, at_once, fresh, held_job, orphan

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]
COMMAND = pytest.mark.django_db(transaction=True)
DAY = timedelta(days=1)


def adapter(kind="crawl_job"):
    return conf.adapters()[kind]


def edited(by="ada", kind="crawl_job", at=NOW, **values):
    return policies.set_overrides(adapter(kind), by, at, values)


def form(kind="crawl_job", **texts):
    return PolicyOverrideForm(adapter(kind), texts)


def errors(**texts):
    asked = form(**texts)
    assert not asked.is_valid()
    return [str(each) for found in asked.errors.values() for each in found]


# --- as people write them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90), ("90s", 90), ("1.5", 1.5), ("2m", 120), ("2min", 120), ("2h", 7200), ("1d", 86_400),
        ("1h 30m", 5400), ("1h30m", 5400), (" 1H 30 min ", 5400), ("1d 2h 3m 4.5s", 93_784.5),
    ],
)  # fmt: skip
def test_a_duration_is_read(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "soon", "1x", "30m 1h", "1h 1h", "1h, 2h", "1 2", "h", "1e3", "٣s", "1h-2m", "--1"]
)
def test_what_is_no_duration_is_left_as_it_is(text):
    with pytest.raises(InvalidValue, match="expected a duration, got"):
        parse_duration(text)


@given(st.integers(min_value=1, max_value=36_525 * 86_400 * 1000))
def test_a_duration_is_written_so_that_it_is_read_back(milliseconds):
    value = timedelta(milliseconds=milliseconds)
    assert abs(parse_duration(format_value(value)) - value) <= timedelta(microseconds=200)


@pytest.mark.parametrize("value", [None, 3 * HOUR + MINUTE, (30 * SECOND, 2 * MINUTE), (), 5, Action.REQUEUE])
def test_every_sort_of_value_is_written_so_that_it_is_read_back(value):
    name = {
        type(None): "stall_timeout", timedelta: "run_timeout", tuple: "backoff", int: "max_requeues"
    }.get(type(value), "on_orphan")  # fmt: skip
    assert policies.parse_override(name, format_value(value)) == value


# --- what counts --------------------------------------------------------------------------------------------------


def test_without_an_edit_the_settings_count():
    assert policies.effective_policy(adapter()) == conf.policy(adapter())
    assert {each.source for each in policies.effective_values(adapter()).values()} <= {
        "the default", "the adapter", "the settings", "the settings of the kind",
    }  # fmt: skip


def test_an_edit_wins_over_the_settings_of_its_kind_only():
    edited(run_timeout=3 * HOUR, stall_timeout=None, backoff=(5 * SECOND,), on_timeout=Action.REQUEUE)
    policy = policies.effective_policy(adapter())
    assert (policy.run_timeout, policy.backoff, policy.on_timeout) == (3 * HOUR, (5 * SECOND,), Action.REQUEUE)
    assert policies.effective_policy(adapter("source_result")) == conf.policy(adapter("source_result"))
    known = policies.effective_values(adapter())["run_timeout"]
    assert known == (3 * HOUR, "override by ada on 2026-03-01", True, HOUR)


def test_the_newest_edit_counts_whole_and_the_others_are_the_history():
    edited(run_timeout=3 * HOUR)
    edited("bob", alert_after=20 * MINUTE)
    edited("eve")
    assert policies.effective_policy(adapter()) == conf.policy(adapter())
    assert [(row.actor, row.summary) for row in PolicyOverride.objects.order_by("id")] == [
        ("ada", "run_timeout: 1 h -> 3 h"),
        ("bob", "run_timeout: 3 h -> 1 h; alert_after: 30 min -> 20 min"),
        ("eve", "alert_after: 20 min -> 30 min"),
    ]


@pytest.mark.parametrize(
    "values",
    [
        {"run_timeout": "soon"},
        {"run_timeout": -1},
        {"fly": 1},
        {"mode": "off"},
        {"on_orphan": "leave"},
        [],
        "x",
        None,
        7,
    ],
)
def test_values_of_another_version_are_left_out(values):
    PolicyOverride.objects.create(
        kind="crawl_job", created_at=NOW, actor="ada", values={} if values is None else values
    )
    assert policies.effective_policy(adapter()) == conf.policy(adapter())


def test_every_threshold_survives_being_kept():
    values = {name: policies.effective_policy(adapter()).__getattribute__(name) for name in policies.OVERRIDABLE}
    values |= {"stall_timeout": 90 * SECOND, "max_requeues": 7}
    edited(**values)
    assert asdict(policies.effective_policy(adapter())) == {**values, "mode": conf.policy(adapter()).mode}


@COMMITTED
@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")
def test_of_two_edits_at_the_same_moment_each_tells_what_it_changed():
    edited(run_timeout=2 * HOUR)

    def many(by, first):
        for number in range(20):
            edited(by, run_timeout=(first + number) * HOUR)

    at_once(partial(many, "bob", 100), partial(many, "eve", 200))
    rows = list(PolicyOverride.objects.order_by("id"))
    assert len(rows) == 41
    for before, after in pairwise(rows):
        old, new = (format_value(timedelta(seconds=row.values["run_timeout"])) for row in (before, after))
        assert after.changes == [f"run_timeout: {old} -> {new}"]


# --- the sweeps obey ----------------------------------------------------------------------------------------------


def test_the_next_sweep_goes_by_it():
    job = held_job(2 * HOUR)
    edited(run_timeout=2 * HOUR)
    sweep()
    assert fresh(job).status == "running"
    edited(run_timeout=2 * HOUR - SECOND)
    sweep()
    assert (fresh(job).status, fresh(job).error_code) == ("failed", "timed_out")


def test_an_orphan_is_requeued_once_its_kind_may_be():
    edited(on_orphan=Action.REQUEUE)
    job = orphan()
    sweep()
    assert fresh(job).status == "pending"
    assert LedgerEntry.objects.get().action == "requeue"


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("run_timeout", "0", "run_timeout: expected a duration above zero, got 0 s. "),
        ("run_timeout", "-5", "run_timeout: expected a duration above zero, got -5 s. "),
        ("run_timeout", "1s", "run_timeout: expected a duration of at least 12 s, got 1 s. Use 12 s or more."),
        ("run_timeout", "11.9s", "run_timeout: expected a duration of at least 12 s, got 11.9 s. "),
        ("run_timeout", "soon", "run_timeout: expected a duration, got 'soon'. "),
        ("run_timeout", "999999999d", "run_timeout: expected a duration of at most a hundred years. "),
        ("queue_timeout", "1", "queue_timeout: expected a duration of at least 12 s, got 1 s. "),
        ("stall_timeout", "1", "stall_timeout: expected a duration of at least 12 s, got 1 s. "),
        ("lost_grace", "0.5", "lost_grace: expected a duration of at least 1 s, got 0.5 s. "),
        ("backoff", "30s, 0.1s", "backoff: expected a duration of at least 1 s, got 0.1 s. "),
        ("backoff", "30s; 2m", "backoff: expected a duration, got '30s; 2m'. "),
        ("on_orphan", "leave", "on_orphan: expected one of fail, requeue, got 'leave'. "),
        ("max_requeues", "-1", "max_requeues: expected 0 or more, got -1. "),
        ("max_requeues", "many", "max_requeues: expected a whole number, got 'many'. "),
        ("max_requeues", "1.5", "max_requeues: expected a whole number, got '1.5'. "),
        ("max_actions", "0", "max_actions: expected 1 or more, got 0. "),
        ("run_timeout", "10m", "crawl_job: RUN_TIMEOUT (0:10:00) is not longer than the time limit"),
        ("alert_after", "1h", "crawl_job: ALERT_AFTER (1:00:00) is not shorter than RUN_TIMEOUT (1:00:00)."),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(name, text, sentence):
    assert any(each.startswith(sentence) for each in errors(**{name: text})), errors(**{name: text})


def test_every_mistake_is_told_at_once():
    assert len(errors(run_timeout="soon", max_requeues="-1", lost_grace="0")) == 3


def test_what_is_at_its_limit_is_taken():
    assert form(alert_after="12s", lost_grace="1", backoff="1s").is_valid()
    assert form(run_timeout="10m 1s", alert_after="10m").is_valid()
    assert form(stall_timeout="off", backoff="off", max_requeues="0", on_orphan=" REQUEUE ").is_valid()


def test_an_empty_form_ends_all_edits():
    edited(run_timeout=3 * HOUR)
    asked = form()
    assert asked.is_valid()
    with freeze_time(NOW):
        asked.save("bob")
    assert policies.effective_policy(adapter()) == conf.policy(adapter())


def test_the_form_shows_what_is_edited_and_what_counts_without():
    edited(run_timeout=3 * HOUR)
    shown = PolicyOverrideForm(adapter())
    assert (shown["run_timeout"].initial, shown["alert_after"].initial) == ("3 h", "")
    assert shown.fields["run_timeout"].widget.attrs["placeholder"] == "1 h"
    assert shown.fields["stall_timeout"].widget.attrs["placeholder"] == "off"


@given(st.dictionaries(st.sampled_from(policies.OVERRIDABLE), st.text(max_size=20), max_size=4))
def test_whatever_is_written_gets_a_sentence_or_a_policy(texts):
    for name, text in texts.items():
        try:
            value = policies.parse_override(name, text)
        except InvalidValue as wrong:
            said = wrong.problem
        else:
            said = format_value(Policy(**{name: value}))
        assert said


# --- the command --------------------------------------------------------------------------------------------------


@COMMAND
def test_the_command_shows_each_threshold_with_where_it_comes_from():
    edited(run_timeout=3 * HOUR)
    code, out, _ = reaper("policy", "crawl_job")
    lines = {line.split()[0]: re.split(" {2,}", line)[1:] for line in out.splitlines()}
    assert (code, lines["run_timeout"]) == (0, ["3 h", "override by ada on 2026-03-01"])
    assert set(lines) >= set(policies.OVERRIDABLE)


@COMMAND
def test_the_command_edits_one_and_leaves_the_others():
    edited(run_timeout=3 * HOUR, max_requeues=9)
    code, out, _ = reaper("policy", "crawl_job", "RUN_TIMEOUT=2h", "on_orphan=requeue", "--user", "bob")
    assert (code, out.splitlines()[0]) == (
        0, "crawl_job: run_timeout: 3 h -> 2 h; on_orphan: fail -> requeue. This counts from the next sweep on.",
    )  # fmt: skip
    policy = policies.effective_policy(adapter())
    assert (policy.run_timeout, policy.on_orphan, policy.max_requeues) == (2 * HOUR, "requeue", 9)
    reaper("policy", "crawl_job", "run_timeout=")
    assert policies.effective_policy(adapter()).run_timeout == HOUR


@COMMAND
@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        ("run_timeout=0", "crawl_job: run_timeout: expected a duration above zero, got 0 s. Write "),
        ("run_timeot=2h", "'run_timeot' is no threshold. Did you mean run_timeout?"),
        ("mode=off", "'mode' is no threshold. Known are: "),
        ("run_timeout", "'run_timeout' is not NAME=VALUE, such as run_timeout=2h."),
    ],
)  # fmt: skip
def test_the_command_refuses_what_makes_no_sense_and_the_old_policy_stays(edit, sentence):
    edited(run_timeout=3 * HOUR)
    code, _, said = reaper("policy", "crawl_job", edit)
    assert (code, PolicyOverride.objects.count()) == (2, 1)
    assert said.strip().removeprefix("CommandError: ").startswith(sentence)


@COMMAND
def test_a_preview_says_what_an_edit_would_do_and_changes_nothing():
    job = held_job(40 * MINUTE)
    code, out, _ = reaper("policy", "crawl_job", "run_timeout=35m", "alert_after=20m", "--dry-run")
    assert code == 0
    assert "run_timeout: 1 h -> 35 min; alert_after: 30 min -> 20 min" in out
    assert f"crawl_job:{job.pk}" in out
    assert "timed_out" in out
    assert "1 runs would be acted on." in out
    assert (PolicyOverride.objects.count(), fresh(job).status, LedgerEntry.objects.count()) == (0, "running", 0)
