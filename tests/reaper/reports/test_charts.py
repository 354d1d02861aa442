"""The charts: every bar is inside, as high as its share, in its family's colour, and said in words."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reaper.core.reasons import ReasonFamily
from reaper.reports import charts
from reaper.reports.activity import RecoveryTimes, TimeBucket

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
LOST = ReasonFamily.MESSAGE_LOST
WORKER = ReasonFamily.WORKER_LOST


def hours(*counts):
    return [TimeBucket(NOON + index * HOUR, f"{12 + index}:00", each) for index, each in enumerate(counts)]


def seconds(value):
    return timedelta(seconds=value)


def test_bars_have_the_height_of_their_share_and_stand_on_each_other():
    chart = charts.actions_chart(hours({LOST: 1, WORKER: 3}, {}, {WORKER: 2}))
    assert [(each.tooltip, each.y, each.height) for each in chart.bars] == [
        ("12:00: 3 Worker lost", 30, 90),
        ("12:00: 1 Message lost", 0, 30),
        ("14:00: 2 Worker lost", 60, 60),
    ]
    assert [tick.text for tick in chart.ticks] == ["0", "2", "4"]
    assert chart.summary == "6 recoveries, at most 4 in one bar."
    assert chart.rows == [("12:00", "3 Worker lost, 1 Message lost"), ("14:00", "2 Worker lost")]


def test_colour_of_a_family_is_the_same_in_every_chart():
    alone = charts.actions_chart(hours({LOST: 1}))
    among_others = charts.actions_chart(hours({WORKER: 1, LOST: 1, ReasonFamily.MANUAL: 1}))
    assert alone.legend[0].colour == 1
    assert {each.label: each.colour for each in among_others.legend} == {
        "Worker lost": 0,
        "Message lost": 1,
        "By a person": 4,
    }


def test_chart_without_recoveries_shows_a_note_and_no_bar():
    for buckets in ([], hours({}, {})):
        chart = charts.actions_chart(buckets)
        assert not chart.bars
        assert not chart.rows
        assert not chart.legend
        assert chart.summary == "No recoveries."


@pytest.mark.parametrize(
    ("most", "end"), [(0, 2), (1, 2), (3, 4), (9, 10), (10, 10), (11, 20), (100, 100), (101, 200), (999, 1000)]
)
def test_axis_ends_at_an_even_number_of_few_digits(most, end):
    assert charts.axis_end(most) == end


def test_recovery_times_lie_on_a_logarithmic_scale_from_1s_to_1h():
    (row,) = charts.recovery_rows([RecoveryTimes(WORKER, 3, seconds(1), seconds(60), seconds(3600))])
    assert row.runs == 3
    assert row.median == (2, "1 s")
    assert row.p95.at == pytest.approx(50, abs=1)
    assert row.p95.text == "1 min"
    assert row.slowest == (98, "1 h")
    assert row.width == row.p95.at - row.median.at


def test_recovery_times_beyond_the_scale_lie_at_its_ends():
    (row,) = charts.recovery_rows([RecoveryTimes(WORKER, 2, seconds(0), seconds(0), timedelta(days=9))])
    assert row.median.at == 2
    assert row.slowest == (98, "9 d")
    assert row.width > 0


def test_recovery_rows_are_in_the_order_of_the_families():
    times = [RecoveryTimes(each, 1, seconds(1), seconds(1), seconds(1)) for each in reversed(charts.FAMILIES)]
    assert [row.colour for row in charts.recovery_rows(times)] == [0, 1, 2, 3, 4, 5]


COUNTS = st.dictionaries(st.sampled_from(charts.FAMILIES), st.integers(0, 10**9), max_size=6)


@given(st.lists(COUNTS, min_size=1, max_size=30))
def test_every_bar_is_inside_whatever_the_counts_are(counts):
    chart = charts.actions_chart(hours(*counts))
    for each in chart.bars:
        assert 0 <= each.x <= each.x + each.width <= 100
        assert -len(charts.FAMILIES) <= each.y <= each.y + each.height <= charts.HEIGHT + 0.2
        assert each.height >= 1


@given(st.floats(0, 1e9))
def test_every_recovery_time_is_on_the_scale(value):
    assert 0 <= charts.scale_mark(seconds(value)).at <= 100
