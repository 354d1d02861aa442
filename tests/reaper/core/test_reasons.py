"""The words of the reasons."""

import json

from reaper.core.reasons import Reason


def test_reason_has_words_and_fits_its_column():
    for reason in Reason:
        assert reason.sentence
        assert len(reason) <= 50
        assert json.loads(json.dumps(reason)) == reason.value
