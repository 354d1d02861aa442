"""Fixtures of the command's tests."""

import pytest

from tests.reaper.command import stuck_runs


@pytest.fixture
def stuck():
    return stuck_runs()
