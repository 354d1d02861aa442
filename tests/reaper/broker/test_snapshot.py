"""Reading the task id out of a raw message."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reaper.broker.snapshot import FAST_HEADER, task_id_in
from tests.reaper.broker.messages import Consumer, send


def test_fast_header_matches_what_kombu_writes(app, broker):
    send(app, "crawl", "c1", headers={"id of": "another"}, priority=3)
    (raw,) = broker.client.lrange("crawl\x06\x163", 0, -1)
    assert FAST_HEADER.match(raw)[1] == b"c1"
    with Consumer(broker.url, "crawl") as consumer:
        consumer.take()
        (raw,) = broker.client.hvals("unacked")
    assert FAST_HEADER.match(raw)[1] == b"c1"


texts = st.text(max_size=5) | st.sampled_from(['", "headers": {"lang": "py", "task": "t", "id": "x"', "\\", '"', "é"])


@settings(max_examples=50, deadline=None)
@given(
    before=st.fixed_dictionaries({"body": texts, "content-encoding": texts, "content-type": texts}),
    headers=st.dictionaries(st.sampled_from(["lang", "task", "root_id", "argsrepr"]), texts),
    task_id=texts.filter(bool),
    delivered=st.booleans(),
)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("dump", [{}, {"ensure_ascii": False}, {"separators": (",", ":")}])
def test_task_id_equals_the_id_of_the_parsed_message(dump, first, before, headers, task_id, delivered):
    named = {"id": task_id, **headers} if first else {**headers, "id": task_id}
    message = {**before, "headers": named, "properties": {"headers": {"id": "another"}}}
    raw = json.dumps([message, "", "q"] if delivered else message, **dump).encode(errors="replace")
    parsed = json.loads(raw)
    assert task_id_in(raw) == (parsed[0] if delivered else parsed)["headers"]["id"]
