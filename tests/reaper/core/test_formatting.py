"""Durations and values as people write and read them."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reaper.conf.validators import parse_duration
from reaper.controls.overrides import parse_override
from reaper.core.formatting import format_duration, format_value
from reaper.core.policy import Action
from reaper.exceptions import InvalidValue
from tests.factories import HOUR, MINUTE, SECOND

DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90), ("90s", 90), ("1.5", 1.5), ("2m", 120), ("2min", 120), ("2h", 7200), ("1d", 86_400),
        ("1h 30m", 5400), ("1h30m", 5400), (" 1H 30 min ", 5400), ("1d 2h 3m 4.5s", 93_784.5),
    ],
)  # fmt: skip
def test_duration_text_is_parsed(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "soon", "1x", "30m 1h", "1h 1h", "1h, 2h", "1 2", "h", "1e3", "٣s", "1h-2m", "--1"]
)
def test_text_that_is_not_a_duration_is_refused(text):
    with pytest.raises(InvalidValue, match="expected a duration, got"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["999999999d", "999999999d 999999999h"])
def test_duration_text_of_over_a_hundred_years_is_refused(text):
    with pytest.raises(InvalidValue, match="at most a hundred years"):
        parse_duration(text)


@given(st.integers(min_value=1, max_value=36_525 * 86_400 * 1000))
def test_exact_duration_is_parsed_back(milliseconds):
    value = timedelta(milliseconds=milliseconds)
    assert abs(parse_duration(format_value(value)) - value) <= timedelta(microseconds=200)


@pytest.mark.parametrize("value", [None, 3 * HOUR + MINUTE, (30 * SECOND, 2 * MINUTE), (), 5, Action.REQUEUE])
def test_formatted_value_is_parsed_back(value):
    name = {
        type(None): "stall_timeout", timedelta: "run_timeout", tuple: "backoff", int: "max_requeues"
    }.get(type(value), "on_orphan")  # fmt: skip
    assert parse_override(name, format_value(value)) == value


@pytest.mark.parametrize(
    ("value", "formatted"),
    [
        (timedelta(0), "0 s"),
        (timedelta(milliseconds=999), "0 s"),
        (-HOUR, "0 s"),
        (59 * SECOND, "59 s"),
        (MINUTE, "1 min"),
        (HOUR + SECOND, "1 h"),
        (HOUR + MINUTE + SECOND, "1 h 1 min"),
        (MINUTE + SECOND, "1 min 1 s"),
        (DAY + HOUR + MINUTE, "1 d 1 h"),
        (400 * DAY, "400 d"),
    ],
)
def test_duration_is_formatted_in_two_largest_units(value, formatted):
    assert format_duration(value) == formatted
