"""What an operator fills in, and what is refused."""

import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st

from reaper.conf import settings as conf
from reaper.controls.forms import PolicyOverrideForm
from reaper.controls.overrides import OVERRIDABLE, effective_policy, parse_override
from reaper.core.formatting import format_value
from reaper.core.policy import Policy
from reaper.exceptions import InvalidValue
from tests.factories import HOUR, NOW
from tests.reaper.controls.operators import adapter, errors, form, overridden

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


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
        ("run_timeout", "10m", "crawl_job: RUN_TIMEOUT (10 min) is not longer than the time limit"),
        ("alert_after", "1h", "crawl_job: ALERT_AFTER (1 h) is not shorter than RUN_TIMEOUT (1 h)."),
    ],
)
def test_invalid_field_is_refused_with_its_problem(name, text, sentence):
    assert any(each.startswith(sentence) for each in errors(**{name: text})), errors(**{name: text})


def test_form_reports_every_mistake_at_once():
    assert len(errors(run_timeout="soon", max_requeues="-1", lost_grace="0")) == 3


def test_value_at_its_minimum_is_accepted():
    assert form(alert_after="12s", lost_grace="1", backoff="1s").is_valid()
    assert form(run_timeout="10m 1s", alert_after="10m").is_valid()
    assert form(stall_timeout="off", backoff="off", max_requeues="0", on_orphan=" REQUEUE ").is_valid()


def test_empty_form_ends_all_overrides():
    overridden(run_timeout=3 * HOUR)
    asked = form()
    assert asked.is_valid()
    with freeze_time(NOW):
        asked.save("bob")
    assert effective_policy(adapter()) == conf.policy(adapter())


def test_form_shows_overrides_and_configured_values():
    overridden(run_timeout=3 * HOUR)
    shown = PolicyOverrideForm(adapter())
    assert shown["run_timeout"].initial == "3 h"
    assert shown["alert_after"].initial == ""
    assert shown.fields["run_timeout"].widget.attrs["placeholder"] == "1 h"
    assert shown.fields["stall_timeout"].widget.attrs["placeholder"] == "off"


@given(st.dictionaries(st.sampled_from(OVERRIDABLE), st.text(max_size=20), max_size=4))
def test_any_text_is_parsed_or_refused_with_a_problem(texts):
    for name, text in texts.items():
        try:
            value = parse_override(name, text)
        except InvalidValue as wrong:
            said = wrong.problem
        else:
            said = format_value(Policy(**{name: value}))
        assert said
