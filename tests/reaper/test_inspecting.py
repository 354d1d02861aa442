"""`inspect query`, without a worker: what it says of a run, and that nothing makes it raise or wait."""

import threading
from datetime import timedelta
from types import SimpleNamespace
from uuid import uuid4

from celery.worker.control import Panel
from kombu.asynchronous.timer import Timer

from reaper.workers import inspect_command as inspecting
from tests.reaper.command import named
from tests.worlds import COMMITTED, NOW, child, parent, queued_job, running_job

IDLE = SimpleNamespace(tset=set, consumer=SimpleNamespace(task_buckets={}, timer=Timer()))


def query(*ids):
    return Panel.data["query"](IDLE, ids=list(ids))


def said(run):
    """What is said of the run that carries this row's task id; the worker is idle."""
    answer = query(run.task_id)[run.task_id]
    assert answer.pop("this_worker") == "does not hold it"
    return answer


@COMMITTED
def test_it_names_the_run_its_status_and_since_when():
    since = "2026-03-01 11:00:00+00:00"
    hour = timedelta(hours=1)
    running, queued = running_job(hour, created_at=NOW - 2 * hour), queued_job(hour)
    assert said(running) == {"run": named(running), "status": "running", "since": since}
    assert said(queued) == {"run": named(queued), "status": "pending", "since": since}
    of_parent = child(parent(), "failed")
    assert said(of_parent) == {"run": named(of_parent), "status": "failed"}


@COMMITTED
def test_many_ids_are_answered_one_by_one_and_an_unknown_one_is_said_to_be():
    run, unknown = running_job(), str(uuid4())
    answer = query(run.task_id, unknown)
    assert answer[run.task_id]["run"] == named(run)
    assert answer[unknown]["run"].startswith("none carries this task id")


def test_no_id_is_an_error_and_no_question():
    assert query() == {"error": "name at least one task id"}


@COMMITTED
def test_what_breaks_the_question_is_said_in_one_line(settings):
    settings.REAPER = {"ADAPTERS": ["nowhere.Adapter"]}
    told = query("x")["x"]["run"]
    assert told.startswith("unknown: ")
    assert "nowhere" in told
    assert "\n" not in told


def test_one_question_that_hangs_keeps_one_thread():
    """The database that never answers is a lock here; a real one is in the runbook's live test."""
    hangs, before = threading.Event(), threading.active_count()
    assert (
        inspecting.call_with_timeout(0.01, lambda: hangs.wait(60) and {}) == "the database did not answer within 0.01 s"
    )
    again = [inspecting.call_with_timeout(5, dict) for _ in range(3)]
    assert again == ["the database has not answered an earlier question yet"] * 3
    assert threading.active_count() <= before + 1
    hangs.set()
    assert inspecting._asking.acquire(timeout=5)
    inspecting._asking.release()
    assert inspecting.call_with_timeout(5, dict) == {}
