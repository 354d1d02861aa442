"""The figures of `make bench`: when a bar is missed, and how it is reported."""

import pytest

from tools.bench import report
from tools.bench.bars import Figure, last_line, number

FACTS = {
    "date": "2026-01-02", "processors": 2, "memory": "8 GiB", "python": "3.11", "django": "5.2", "celery": "5.6",
    "postgresql": {
        "server_version": "18.1", "autovacuum": "on", "fsync": "on", "synchronous_commit": "on",
        "shared_buffers": "128MB",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "bar", "more", "missed"),
    [(5, 5, False, False), (5.01, 5, False, True), (5, 5, True, False), (4.99, 5, True, True), (9, None, False, False)],
)
def test_figure_on_the_wrong_side_of_its_bar_is_missed(value, bar, more, missed):
    assert Figure("sweep", value, "ms", bar, more).missed is missed


def test_line_states_the_figure_and_its_bar():
    assert Figure("sweep", 7.25, "ms").line == "sweep: 7.25 ms"
    assert Figure("sweep", 7.25, "ms", 5).line == "sweep: 7.25 ms (at most 5: missed)"
    assert Figure("loop", 16, "times", 15, more=True).line == "loop: 16 times (at least 15: ok)"
    assert last_line([Figure("a", 1, "s"), Figure("b", 1, "s", 2), Figure("c", 3, "s", 2)]) == (
        "bench: 3 figures, 2 bars, 1 missed"
    )


@pytest.mark.parametrize(("value", "shown"), [(0.01234, "0.0123"), (2.5, "2.5"), (99.5, "99.5"), (2345.6, "2,346")])
def test_number_has_three_significant_digits(value, shown):
    assert number(value) == shown


def test_page_lists_figures_missed_bars_and_plots():
    figures = [
        Figure("all queries of a sweep of 1,000 jobs, none stuck", 1.5, "ms"),
        Figure("all queries of a sweep of 1,000,000 jobs, none stuck", 2.0, "ms", 5),
        Figure("fail 100 orphans, per run", 700.0, "µs"),
        Figure("fail 10,000 orphans, per run", 300.0, "µs"),
        Figure("fail 10,000, against one UPDATE", 9, "times", 3.5),
    ]
    page = report.text(figures, FACTS)
    assert "PostgreSQL 18.1 (autovacuum on, fsync on, synchronous_commit on, shared_buffers 128MB)" in " ".join(
        page.split()
    )
    assert "| fail 10,000, against one UPDATE | 9 times | ≤ 3.5 **missed** |" in page
    assert "## Missed\n\n* fail 10,000, against one UPDATE: 9 times, ≤ 3.5 **missed**\n" in page
    assert 'x-axis "jobs in the table" ["1,000", "1,000,000"]' in page
    assert 'y-axis "ms" 0 --> 3\n    bar [1.50, 2.00]' in page
    assert 'x-axis "orphans in the sweep" ["100", "10,000"]' in page
    assert 'y-axis "µs" 0 --> 1050\n    bar [700.00, 300.00]' in page
    assert "## Missed\n\nNone." in report.text(figures[:2], FACTS)
