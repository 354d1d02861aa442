"""The charts: every bar is inside, as high as its share, and said in words."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reaper.reports import charts
from reaper.reports.activity import DAY, TimeBucket

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def hours(*counts, slowest=(), length=HOUR):
    slow = [*slowest, *[None] * (len(counts) - len(slowest))]
    return [TimeBucket(NOON + index * length, each, slow[index]) for index, each in enumerate(counts)]


def test_bars_are_as_high_as_their_share_and_stand_on_each_other():
    chart = charts.actions_chart(hours({"lost": 1, "orphaned": 3}, {}, {"orphaned": 2}))
    assert [(each.tooltip, each.y, each.height) for each in chart.pieces] == [
        ("12:00: 1 lost", 90, 30),
        ("12:00: 3 orphaned", 0, 90),
        ("14:00: 2 orphaned", 60, 60),
    ]
    assert chart.summary == "6 runs and parents were acted on in the last 3 hours, at most 4 in an hour."
    assert chart.rows == [("12:00", "1 lost, 3 orphaned"), ("14:00", "2 orphaned")]
    assert [name for _, name in chart.legend] == ["lost", "orphaned"]


def test_of_days_the_date_is_the_label():
    chart = charts.actions_chart(hours({"lost": 1}, {}, length=DAY))
    assert (chart.labels, chart.summary) == (
        [(0.0, "Mar 1")], "1 runs and parents were acted on in the last 2 days, at most 1 in a day.",
    )  # fmt: skip


def test_the_slowest_recovery_is_the_highest_bar():
    chart = charts.recovery_chart(hours({}, {}, {}, slowest=[5.0, None, 10.0]))
    assert [(each.tooltip, each.height) for each in chart.pieces] == [("12:00: 5 s", 60), ("14:00: 10 s", 120)]
    assert (chart.top, chart.summary) == ("10 s", "The slowest recovery in the last 3 hours took 10 s.")


@pytest.mark.parametrize("make", [charts.actions_chart, charts.recovery_chart])
def test_without_anything_it_says_so_and_draws_nothing(make):
    for bars in ([], hours({}, {})):
        chart = make(bars)
        assert (list(chart.pieces), list(chart.rows), chart.top) == ([], [], "")
        assert chart.summary


COUNTS = st.dictionaries(st.sampled_from("abcdefghij"), st.integers(0, 10**9), max_size=10)


@given(st.lists(COUNTS, min_size=1, max_size=30), st.lists(st.none() | st.floats(0, 1e12), max_size=30))
def test_everything_is_inside_whatever_the_figures_are(counts, slowest):
    bars = hours(*counts, slowest=slowest[: len(counts)])
    for chart in (charts.actions_chart(bars), charts.recovery_chart(bars)):
        for each in chart.pieces:
            assert 0 <= each.x <= each.x + each.width <= charts.WIDTH
            assert -0.1 <= each.y <= each.y + each.height <= charts.HEIGHT + 0.2
            assert each.height >= 1
            assert 0 <= each.colour < charts.COLOURS
