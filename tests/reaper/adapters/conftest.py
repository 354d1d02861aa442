"""Fixtures of the adapters' tests."""

import pytest

from tests.reaper.adapters.kinds import KINDS


@pytest.fixture(params=KINDS)
def kind(request, parcels):
    return KINDS[request.param]
