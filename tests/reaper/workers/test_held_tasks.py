"""The tasks that a worker holds, and what each of Celery's lists alone would miss."""

from collections import deque
from types import SimpleNamespace

import pytest
from celery.worker import state
from celery.worker.request import Request

from reaper.workers.held_tasks import TaskSnapshot, copy_live, snapshot_tasks, truncate
from tests.reaper.requests import Task


def waiting(task_id):
    """A request whose ETA has not come, in the timer of a Celery that lists it nowhere else."""
    request = Request.__new__(Request)
    request.id = task_id
    return SimpleNamespace(entry=SimpleNamespace(args=(request, "bucket", 1)))


def test_task_in_any_of_celerys_lists_is_held(consumer):
    running, reserved, scheduled, limited = (Task(name) for name in ("running", "reserved", "scheduled", "limited"))
    running.time_start = 7.5
    state.requests["known"] = None
    state.active_requests.add(running)
    state.reserved_requests.add(reserved)
    state.scheduled_requests.add(scheduled)
    consumer.task_buckets.update(one=SimpleNamespace(contents=deque([(limited, 1)])), none=None)
    consumer.timer.queue += [waiting("eta"), SimpleNamespace(entry=SimpleNamespace(args=("no request",)))]
    found = snapshot_tasks(consumer)
    assert found == TaskSnapshot({"running": 7.5}, {"known", "reserved", "scheduled", "limited", "eta"})


def test_running_task_is_active_after_its_second_copy_ended(consumer):
    original = Task("a", 7.5)
    state.task_accepted(request := SimpleNamespace(id="a", name="t"), add_active_request=lambda _: None)
    state.active_requests.add(original)
    state.task_ready(request, discard_active_request=lambda _: None, discard_reserved_request=lambda _: None,
                     discard_scheduled_request=lambda _: None)  # fmt: skip
    assert "a" not in state.requests
    assert snapshot_tasks(consumer).active == {"a": 7.5}


def test_list_that_changes_while_copied_is_copied_again():
    class Restless:
        reads = 0

        def __iter__(self):
            self.reads += 1
            if self.reads < 50:
                raise RuntimeError("Set changed size during iteration")
            yield "a"

    assert copy_live(Restless()) == ["a"]


def test_first_start_of_running_copies_counts(consumer):
    copies = [Task("a", start) for start in (8.5, 7.5, 9.5)]
    state.active_requests.update(copies)
    assert snapshot_tasks(consumer).active == {"a": 7.5}


@pytest.mark.parametrize(
    ("active", "held", "complete"), [(3, 7, True), (3, 8, False), (10, 0, True), (10, 1, False), (11, 0, False)]
)
def test_tasks_beyond_the_limit_are_left_out_and_reported(active, held, complete):
    tasks = TaskSnapshot({f"a{n}": 1.0 for n in range(active)}, {f"h{n}" for n in range(held)})
    kept, whole = truncate(tasks, limit=10)
    assert whole is complete
    assert len(kept.active) == min(active, 10)
    assert len(kept.held) == min(held, 10 - len(kept.active))


@pytest.mark.parametrize("odd", ["nul\0", "\ud800", "x" * 256, None, 7, "new\nline"])
def test_id_that_not_every_database_accepts_is_left_out_and_reported(odd):
    assert truncate(TaskSnapshot({"a": 1.0}, {"b", odd})) == (TaskSnapshot({"a": 1.0}, {"b"}), False)
