"""A run's timeline: every event is one sentence, newest first."""

from datetime import timedelta

import pytest

from reaper.conf import settings as conf
from reaper.core.facts import Phase, RunFacts
from reaper.models import LedgerEntry, RefusedWrite
from reaper.reports.timeline import MAX_EVENTS, describe_event, history_of, state_token, timeline_of
from tests.factories import NOW, SECOND, running_job

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("limits")]


def entry(pk, ago=timedelta(0), **fields):
    values = {"kind": "crawl_job", "phase": "running", "action": "fail", "reason": "orphaned", "message": "Failed."}
    return LedgerEntry.objects.create(created_at=NOW - ago, run_id=str(pk), **{**values, **fields})


def event(**fields):
    empty = {"actor": "", "message": "", "task_id": "", "new_task_id": "", "published_at": None, "revoked_at": None}
    return {"applied": True, **empty, **fields}


def adapter():
    return conf.adapters()["crawl_job"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"action": "fail", "message": "Failed."}, "Failed."),
        ({"action": "dispatch", "new_task_id": "b", "published_at": NOW}, "Dispatched manually. [new task b]"),
        ({"action": "requeue", "actor": "ada"}, "Requeue by ada."),
        ({"action": "requeue"}, "Requeue by the reaper."),
        (
            {"action": "fail", "message": "Failed.", "task_id": "a"},
            "Failed. [old task a (its revoke is not sent yet)]",
        ),
        (
            {"action": "requeue", "message": "Requeued.", "task_id": "a", "revoked_at": NOW, "new_task_id": "b"},
            "Requeued. [old task a, new task b (not published yet)]",
        ),
        ({"action": "rejected", "write": "claim", "worker": ""}, "Rejected a late claim of task (none)."),
        (
            {"action": "rejected", "write": "fail", "task_id": "a", "worker": "celery@w1/1"},
            "Rejected a late fail of task a on celery@w1/1.",
        ),
    ],
)
def test_event_is_described_in_one_sentence(fields, sentence):
    assert describe_event(event(**fields)) == sentence


def test_timeline_is_newest_first_from_row_ledger_and_rejected_writes():
    job = running_job(10 * SECOND, created_at=NOW - 20 * SECOND, queued_at=NOW - 15 * SECOND, worker="celery@w1/1")
    entry(job.pk, 5 * SECOND)
    RefusedWrite.objects.create(created_at=NOW, kind="crawl_job", run_id=str(job.pk), write="complete", task_id="x")
    found = timeline_of(adapter(), adapter().get(str(job.pk)))
    texts = [each.text for each in found if "progress" not in each.text]
    assert [each.at for each in found] == sorted((each.at for each in found), reverse=True)
    assert texts[0] == "Rejected a late complete of task x."
    assert texts[1].startswith("Failed.")
    assert texts[2] == "Claimed by celery@w1/1."
    assert texts[3].startswith("Dispatched")
    assert texts[4] == "Created."


def test_history_is_cut_to_the_newest_events():
    for number in reversed(range(MAX_EVENTS + 5)):
        entry(7, number * SECOND)
    found = history_of(adapter(), "7")
    assert len(found) == MAX_EVENTS
    assert found[0]["created_at"] == NOW


def test_state_token_changes_with_status_task_and_start_only():
    run = RunFacts(kind="crawl_job", pk="7", phase=Phase.RUNNING, status="running", task_id="a", started_at=NOW)
    values = {"kind": "crawl_job", "pk": "7", "phase": Phase.RUNNING}
    same = RunFacts(**values, status="running", task_id="a", started_at=NOW, progress_at=NOW + SECOND)
    assert state_token(same) == state_token(run)
    for change in ({"status": "x"}, {"task_id": "b"}, {"started_at": NOW + SECOND}):
        other = RunFacts(**values, **{"status": "running", "task_id": "a", "started_at": NOW, **change})
        assert state_token(other) != state_token(run)
