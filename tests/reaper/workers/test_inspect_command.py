"""`inspect query` without a worker: what it says about a run, and that it neither raises nor waits."""

import threading
from datetime import timedelta
from types import SimpleNamespace
from uuid import uuid4

from celery.worker.control import Panel
from kombu.asynchronous.timer import Timer

from reaper.workers import inspect_command
from tests.factories import COMMITTED, NOW, child, parent, queued_job, running_job
from tests.reaper.command import named

IDLE = SimpleNamespace(tset=set, consumer=SimpleNamespace(task_buckets={}, timer=Timer()))


def query(*ids):
    return Panel.data["query"](IDLE, ids=list(ids))


def answer_about(run):
    """What an idle worker says about the run that carries this row's task id."""
    answer = query(run.task_id)[run.task_id]
    assert answer.pop("this_worker") == "does not hold it"
    return answer


@COMMITTED
def test_query_names_the_run_its_status_and_since_when():
    since = "2026-03-01 11:00:00+00:00"
    hour = timedelta(hours=1)
    running, queued = running_job(hour, created_at=NOW - 2 * hour), queued_job(hour)
    assert answer_about(running) == {"run": named(running), "status": "running", "since": since}
    assert answer_about(queued) == {"run": named(queued), "status": "pending", "since": since}
    of_parent = child(parent(), "failed")
    assert answer_about(of_parent) == {"run": named(of_parent), "status": "failed"}


@COMMITTED
def test_query_of_many_ids_answers_each_and_names_unknown_ones():
    run, unknown = running_job(), str(uuid4())
    answer = query(run.task_id, unknown)
    assert answer[run.task_id]["run"] == named(run)
    assert answer[unknown]["run"].startswith("none carries this task id")


def test_query_without_an_id_is_an_error():
    assert query() == {"error": "name at least one task id"}


@COMMITTED
def test_failing_query_is_reported_in_one_line(settings):
    settings.REAPER = {"ADAPTERS": ["nowhere.Adapter"]}
    answer = query("x")["x"]["run"]
    assert answer.startswith("unknown: ")
    assert "nowhere" in answer
    assert "\n" not in answer


def test_query_that_hangs_keeps_one_thread():
    """A lock stands for the database that never answers; the runbook's live test has a real one."""
    hangs, before = threading.Event(), threading.active_count()
    hanging = inspect_command.call_with_timeout(0.01, lambda: hangs.wait(60) and {})
    assert hanging == "the database did not answer within 0.01 s"
    again = [inspect_command.call_with_timeout(5, dict) for _ in range(3)]
    assert again == ["the database has not answered an earlier query yet"] * 3
    assert threading.active_count() <= before + 1
    hangs.set()
    assert inspect_command._querying.acquire(timeout=5)
    inspect_command._querying.release()
    assert inspect_command.call_with_timeout(5, dict) == {}
