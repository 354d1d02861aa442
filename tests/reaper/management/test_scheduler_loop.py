"""`manage.py reaper run`: sweeps without Beat and without a worker, and goes on whatever happens."""

import sys
import threading
from datetime import timedelta

import pytest
from django.db import connection

from reaper.management import scheduler_loop
from reaper.models import Sweep
from reaper.schedules import SCHEDULES
from tests.factories import COMMITTED, fresh, running_job
from tests.processes import database_url, end, start, wait_until

SOON = timedelta(milliseconds=1)
NEVER = timedelta(days=1)


def ended_after(times, every, *others):
    """Run the loop until the first task was done so often; return how often each was."""
    stop, done = threading.Event(), []

    def first():
        done.append("first")
        if len(done) == times:
            stop.set()

    scheduler_loop.run(stop, {first: every, **dict(others)})
    return done


@COMMITTED
def test_loop_starts_each_task_at_once_and_then_when_due():
    rare = []
    assert ended_after(5, SOON, (lambda: rare.append(1), NEVER)) == ["first"] * 5
    assert rare == [1]


@COMMITTED
def test_loop_continues_after_task_that_raises(caplog):
    failed = []

    def fails():
        failed.append(1)
        raise RuntimeError("no luck")

    ended_after(50, SOON, (fails, SOON))
    assert len(failed) > 1
    assert "no luck" in caplog.text


def test_loop_stopped_before_its_start_does_nothing():
    stop = threading.Event()
    stop.set()
    scheduler_loop.run(stop, {pytest.fail: SOON})


def test_loop_starts_the_tasks_of_all_schedules():
    started = {task.name: every for task, every in scheduler_loop.scheduled().items()}
    assert started == {schedule.task: schedule.every for schedule in SCHEDULES}


def backends():
    """The sessions of other processes on this database; they are ended."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return cursor.rowcount


@pytest.mark.live
@COMMITTED
@pytest.mark.skipif(connection.vendor != "postgresql", reason="another process cannot see the tests' database")
def test_run_survives_lost_session_and_ends_on_sigterm(transactional_db, redis_server, tmp_path):
    log, jobs = tmp_path / "run.log", []
    environment = {"DATABASE_URL": database_url(), "CELERY_BROKER_URL": redis_server.url, "DEBUG": "1"}

    def sweeps_again():
        jobs.append(running_job(timedelta(days=1)))
        wait_until(lambda: fresh(jobs[-1]).status == "failed", what=f"it sweeps, see {log}")

    process = start(sys.executable, "manage.py", "reaper", "run", log=log, environment=environment)
    try:
        sweeps_again()
        # Between two sweeps there may be none: it is ended while one is under way.
        wait_until(backends, what="a session")
        sweeps_again()
        process.terminate()
        assert process.wait(60) == 0, log.read_text()
    finally:
        end(process)
    assert Sweep.objects.filter(phase="parents").exists()
