"""The words of the reasons."""

import json

from reaper.core.reasons import Reason, ReasonFamily, find_reason


def test_reason_has_words_and_fits_its_column():
    for reason in Reason:
        assert reason.sentence
        assert reason.label
        assert len(reason) <= 50
        assert json.loads(json.dumps(reason)) == reason.value


def test_reason_is_found_by_its_stored_code():
    assert all(find_reason(reason.value) is reason for reason in Reason)


def test_code_of_another_version_is_no_reason():
    assert find_reason("abducted") is None


def test_reason_of_a_recovery_belongs_to_a_family():
    assert {str(each) for each in Reason if each.family is not ReasonFamily.NONE} == {
        "parent_ended",
        "unpublished",
        "timed_out",
        "never_sent",
        "stalled",
        "orphaned",
        "lost",
        "stranded",
        "overtaken",
        "children_ended",
        "manual",
    }
