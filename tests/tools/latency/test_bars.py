"""The figures of `make latency`, and the sentence for each bar that was missed."""

import pytest

from tools.latency import bars

FAST = [5.0] * 20


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1.0), (0.5, 10.0), (0.95, 19.0), (1.0, 20.0)], ids=["least", "half", "most", "all"]
)
def test_percentile_is_one_of_the_values(share, value):
    assert bars.percentile([float(number) for number in range(20, 0, -1)], share) == value


def test_last_line_states_kills_and_percentiles():
    line = "latency: kills 3, median 2.0 s, p95 9.0 s, worst 9.0 s, wrongly reaped 0"
    assert bars.last_line([9.0, 1.0, 2.0], 0) == line
    assert bars.last_line([], 1) == "latency: kills 0, median nan s, p95 nan s, worst nan s, wrongly reaped 1"


@pytest.mark.parametrize(
    ("kills", "others", "wrong", "sentences"),
    [
        (FAST, {"lost": 65.0}, 0, []),
        ([10.0] * 19 + [99.0], {}, 0, []),
        (FAST[:-1], {}, 0, ["only 19 of 20 kills were recovered from"]),
        ([10.1] * 20, {}, 0, ["the median is 10.1 s, more than 10 s"]),
        ([1.0] * 18 + [15.1] * 2, {}, 0, ["the 95th percentile is 15.1 s, more than 15 s"]),
        (FAST, {"lost": 65.1}, 0, ["lost: 65.1 s, more than 65 s"]),
        (FAST, {"lost": None}, 0, ["lost: not recovered"]),
        (FAST, {}, 2, ["2 runs were wrongly reaped"]),
        ([], {}, 0, ["only 0 of 20 kills were recovered from"]),
    ],
)
def test_each_missed_bar_is_named(kills, others, wrong, sentences):
    assert bars.missed(kills, 20, others, wrong) == sentences
