"""Facts and evidence as entries keep them: enough to decide again, and readable by later versions."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reaper.core.decisions import decide
from reaper.core.facts import NO_EVIDENCE, Evidence, History, Phase, RunFacts
from reaper.core.serialization import evidence_from_json, facts_from_json, to_compact, to_dict, to_json
from tests.factories import HOUR, NOW, SECOND
from tests.reaper.core.strategies import POLICIES, always, evidences
from tests.reaper.core.strategies import runs as any_runs
from tests.reaper.ledger.entries import RUN

pytestmark = pytest.mark.django_db


@given(any_runs(skew=st.timedeltas(-HOUR, HOUR)), evidences(), POLICIES)
@always
def test_stored_facts_and_evidence_lead_to_the_same_decision(run, evidence, policy):
    for form in (to_dict, to_compact):
        facts, found = (json.loads(json.dumps(form(each))) for each in (run, evidence))
        again = (facts_from_json(facts), evidence_from_json(found))
        assert [json.loads(to_json(each)) for each in (run, evidence)] == [*map(to_compact, (run, evidence))]
        assert again == (run, evidence)
        assert decide(*again, policy, NOW) == decide(run, evidence, policy, NOW)


def test_entry_of_older_version_is_read_as_far_as_possible():
    run = replace(RUN, history=History(requeues=1, last_action_at=NOW), skew=SECOND)
    facts = to_dict(run)
    del facts["skew"], facts["history"]["interruptions"]
    assert facts_from_json(facts) == replace(run, skew=timedelta(0))
    assert facts_from_json({**facts, "colour": "red", "skew": 1}) == run
    assert evidence_from_json({"colour": "red", "holder": "celery@w1/abc"}) == Evidence(holder="celery@w1/abc")


@pytest.mark.parametrize(
    "odd",
    [
        {"phase": "asleep", "queued_at": "yesterday", "skew": "long"},
        {"phase": None, "queued_at": 5, "skew": None, "worker": None, "parent_ended": None, "history": None},
        {"phase": 1, "queued_at": {}, "skew": 1e300, "worker": 5, "parent_ended": "no", "history": [1]},
    ],
)
def test_unreadable_fact_is_read_as_its_default(odd):
    unknown = replace(RUN, phase=Phase.UNKNOWN, queued_at=None)
    assert facts_from_json(to_dict(RUN) | odd) == unknown


@pytest.mark.parametrize("kept", [{}, None, [], "", 5])
def test_empty_json_is_read_as_defaults(kept):
    assert facts_from_json(kept) == RunFacts(kind="", pk="", phase=Phase.UNKNOWN)
    assert evidence_from_json(kept) == NO_EVIDENCE
