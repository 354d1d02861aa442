"""What went wrong in a sweep, as a value and as it is stored."""

import pytest

from reaper.core.sweep_errors import HOLDS, ErrorCode, SweepError


@pytest.mark.parametrize("code", ErrorCode)
def test_error_read_from_its_json_is_the_same(code):
    error = SweepError(code, "the reason")
    assert error.as_json() == {"code": code.value, "message": "the reason"}
    assert SweepError.from_json(error.as_json()) == error


@pytest.mark.parametrize(
    ("stored", "error"),
    [
        ({"code": "of another version", "message": "so"}, SweepError("of another version", "so")),
        ({"message": "so"}, SweepError("", "so")),
        ({}, SweepError("", "")),
        ("so", SweepError("", "so")),
        (None, SweepError("", "None")),
    ],
)
def test_unknown_json_is_read_as_far_as_possible(stored, error):
    assert SweepError.from_json(stored) == error


def test_only_brake_and_mass_silence_are_holds():
    assert {code for code in ErrorCode if SweepError(code, "").is_hold} == HOLDS
    assert {ErrorCode.BRAKE_ENGAGED, ErrorCode.MASS_SILENCE} == HOLDS
