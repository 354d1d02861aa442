"""Finalizing a parent, as a table: its children's statuses, and what it becomes."""

from itertools import permutations

import pytest

from apps.sources.models import CrawlJobSourceResult
from apps.sources.outcomes import ENDED, outcome

STAYS_OPEN = None

TABLE = [
    # children, outcome
    ("completed", ("completed", "")),
    ("completed completed", ("completed", "")),
    ("completed failed", ("completed", "1 sources failed")),
    ("completed failed failed", ("completed", "2 sources failed")),
    ("completed skipped", ("completed", "1 sources skipped")),
    ("completed skipped skipped", ("completed", "2 sources skipped")),
    ("completed failed skipped", ("completed", "1 sources failed; 1 sources skipped")),
    ("completed failed failed skipped skipped", ("completed", "2 sources failed; 2 sources skipped")),
    ("failed", ("failed", "All 1 sources failed")),
    ("failed failed failed", ("failed", "All 3 sources failed")),
    ("failed skipped", ("failed", "1 failed, 1 skipped")),
    ("failed failed skipped", ("failed", "2 failed, 1 skipped")),
    ("skipped", ("cancelled", "")),
    ("skipped skipped", ("cancelled", "")),
    ("pending", STAYS_OPEN),
    ("running", STAYS_OPEN),
    ("completed pending", STAYS_OPEN),
    ("completed running", STAYS_OPEN),
    ("failed pending", STAYS_OPEN),
    ("failed running", STAYS_OPEN),
    ("skipped pending", STAYS_OPEN),
    ("skipped running", STAYS_OPEN),
    ("completed failed skipped running", STAYS_OPEN),
    ("paused", STAYS_OPEN),
    ("completed from-a-newer-version", STAYS_OPEN),
    ("failed from-a-newer-version", STAYS_OPEN),
    ("skipped from-a-newer-version", STAYS_OPEN),
    ("completed Completed", STAYS_OPEN),
]


@pytest.mark.parametrize("waited_too_long", [False, True])
@pytest.mark.parametrize(("children", "expected"), TABLE, ids=[children for children, _ in TABLE])
def test_children_decide_outcome_whatever_the_time(children, expected, waited_too_long):
    assert outcome(children.split(), waited_too_long=waited_too_long) == expected


def test_parent_without_children_is_open_until_none_will_come():
    assert outcome([]) is STAYS_OPEN
    assert outcome([], waited_too_long=True) == ("failed", "no sources")


@pytest.mark.parametrize("odd", ["", None])
def test_child_without_status_keeps_parent_open(odd):
    assert outcome(["completed", odd]) is STAYS_OPEN


def test_order_of_children_does_not_matter():
    assert len({outcome(order) for order in permutations(["completed", "failed", "skipped", "completed"])}) == 1


def test_children_may_be_a_generator():
    assert outcome(status for status in ["completed", "failed"]) == ("completed", "1 sources failed")


def test_every_child_status_is_unfinished_or_in_the_table():
    assert set(CrawlJobSourceResult.Status.values) - ENDED == {"pending", "running"}
    assert set(CrawlJobSourceResult.Status.values) >= ENDED
