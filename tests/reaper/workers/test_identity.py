"""The name of the worker that a process belongs to."""

from types import SimpleNamespace

from reaper.workers import heartbeat, identity
from reaper.workers.identity import worker_name


def test_worker_name_outside_of_a_worker_is_empty():
    assert worker_name() == ""


def test_every_start_of_a_worker_is_a_new_incarnation(monkeypatch):
    monkeypatch.setattr(identity, "current", None)
    names = set()
    for _ in range(2):
        heartbeat.on_init(SimpleNamespace(hostname="celery@w1"))
        names.add(worker_name())
    assert len(names) == 2
    assert {name.rpartition("/")[0] for name in names} == {"celery@w1"}
