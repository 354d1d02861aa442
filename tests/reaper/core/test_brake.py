"""The brake: when workers fell silent together, and when too many runs would be acted on at once."""

from dataclasses import dataclass
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reaper.core.brake import HELD_LIMIT, MASS_PERCENT, detect_mass_silence, exceeds_limit
from tests.factories import HOUR, MINUTE, NOW, SECOND

SILENCE = 12 * SECOND
LONG_AGO = [number * MINUTE for number in range(5, 35)]


@dataclass(frozen=True)
class Heard:
    """A worker, by when it was heard of."""

    since: datetime = NOW - HOUR
    seen_at: datetime = NOW
    ended_at: datetime | None = None
    alive: bool = True


def live(since=HOUR):
    return Heard(since=NOW - since)


def dead(silent=MINUTE, since=HOUR):
    return Heard(since=NOW - since, seen_at=NOW - silent, alive=False)


def gone(ago=MINUTE):
    """One that said goodbye."""
    return Heard(seen_at=NOW - ago, ended_at=NOW - ago, alive=False)


@pytest.mark.parametrize(
    ("workers", "silent"),
    [
        pytest.param([], None, id="nobody at all"),
        pytest.param([live()] * 3, None, id="all are alive"),
        pytest.param([dead()], (1, 1), id="the only one"),
        pytest.param([dead()] * 2, (2, 2), id="both"),
        pytest.param([live(), dead()], None, id="one of two"),
        pytest.param([live(), dead(), dead()], None, id="two of three are most, and too few"),
        pytest.param([live(), *[dead()] * 3], (3, 4), id="three of four"),
        pytest.param([*[live()] * 2, *[dead()] * 3], (3, 5), id="three of five are 60 %"),
        pytest.param([*[live()] * 3, *[dead()] * 3], None, id="three of six are 50 %"),
        pytest.param([*[live()] * 9, *[dead()] * 11], (11, 20), id="eleven of twenty are 55 %"),
        pytest.param([*[live()] * 10, *[dead()] * 11], None, id="eleven of 21 are 52 %"),
        pytest.param([live(), *[gone()] * 5], None, id="they said goodbye"),
        pytest.param([dead(), *[gone()] * 5], (1, 1), id="they said goodbye, but not the last one"),
        pytest.param([live(), *(dead(number * MINUTE) for number in (1, 2, 3))], None, id="one after the other"),
        pytest.param([live(), *(dead(number * 6 * SECOND) for number in (10, 11, 12))], (3, 4), id="within the limit"),
        pytest.param([live(), dead(60 * SECOND), dead(66 * SECOND), dead(73 * SECOND)], None, id="a second too late"),
        pytest.param([*[live()] * 2, *[dead()] * 3, live(30 * SECOND)], None, id="somebody has come since"),
        pytest.param([*[live()] * 2, *[dead()] * 3, live(11 * SECOND)], (3, 5), id="but only just"),
        pytest.param([*[live()] * 2, *[dead()] * 3, live(12 * SECOND)], None, id="and has been there for the limit"),
        pytest.param([*[dead()] * 3, live(2 * MINUTE)], (3, 4), id="who was there is no newcomer"),
        pytest.param([live(), *[dead()] * 3, *map(dead, LONG_AGO)], (3, 4), id="others died long ago, one by one"),
        pytest.param([live(), *[dead(HOUR / 2)] * 9], (9, 10), id="long ago, and nobody has come since"),
    ],
)
def test_mass_silence_of_workers_is_detected(workers, silent):
    assert detect_mass_silence(workers, SILENCE, NOW) == silent
    assert detect_mass_silence(workers[::-1], SILENCE, NOW) == silent


def test_worker_without_readable_time_is_not_counted_as_reporting():
    unread = Heard(since=datetime.min.replace(tzinfo=NOW.tzinfo), seen_at=datetime.min.replace(tzinfo=NOW.tzinfo))
    assert detect_mass_silence([live(), Heard(**{**vars(unread), "alive": False})], SILENCE, NOW) is None


@given(st.integers(0, 500), st.integers(0, 500))
def test_limit_is_exceeded_by_many_runs_with_a_large_share(acting, rest):
    assert exceeds_limit(acting, acting + rest) == (
        acting > HELD_LIMIT and 100 * acting >= MASS_PERCENT * (acting + rest)
    )


@pytest.mark.parametrize(
    ("acting", "seen", "is_held"),
    [(0, 0, False), (20, 20, False), (21, 21, True), (55, 100, True), (54, 100, False), (550, 1000, True)],
)
def test_limit_at_20_runs_and_55_percent(acting, seen, is_held):
    assert exceeds_limit(acting, seen) is is_held
