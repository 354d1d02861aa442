"""Who is alive: by silence, by a clean shutdown, and by the database session."""

import pytest

from reaper.workers.liveness import has_session, is_alive
from tests.factories import NOW, SECOND


@pytest.mark.parametrize(
    ("silent", "session", "ended", "alive"),
    [
        (0, None, False, True),
        (12, None, False, True),
        (13, None, False, False),
        (12, True, False, True),
        (13, True, False, False),  # stopped, or cut off: its session is no proof of life
        (0, False, False, True),  # an administrator has just ended it: the worker reports again
        (8, False, False, True),
        (9, False, False, False),
        (0, None, True, False),
        (0, True, True, False),
        (-30, None, False, True),
    ],
)
def test_worker_is_alive_by_silence_session_and_end(silent, session, ended, alive):
    assert is_alive(NOW if ended else None, NOW - silent * SECOND, session, NOW) is alive


START = NOW - 60 * SECOND


@pytest.mark.parametrize(
    ("named", "there", "answer"),
    [
        ((None, None), {}, None),
        ((None, None), {7: START}, None),
        ((7, START), {}, False),
        ((7, START), {8: START}, False),
        ((7, START), {7: START}, True),
        ((7, START), {7: START + SECOND}, False),  # the number was given to another session since
        ((7, START), {7: None}, True),  # its start is hidden from this role
        ((7, None), {7: START}, True),
    ],
)
def test_session_exists_by_number_and_start(named, there, answer):
    row = dict(zip(("backend_pid", "backend_start"), named, strict=True))
    assert has_session(row, there) is answer
