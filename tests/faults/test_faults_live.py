"""The reaper as a process that is killed, disconnected or doubled, with real servers. Each test covers one fault."""

import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection
from django.utils import timezone
from environ import Env

from apps.sources.models import CrawlJob, CrawlJobSourceResult, Source
from config.embedded.postgres import Postgres
from reaper.models import LedgerEntry, Sweep
from tests import processes
from tests.factories import COMMITTED, HOUR, MINUTE, SECOND, fresh
from tests.faults.proxy import Proxy
from tests.faults.sweeper import STEPS
from tests.processes import broker_at, database_url, halt, redis_server, wait_until

pytestmark = [
    pytest.mark.live,
    pytest.mark.lane,
    COMMITTED,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="the processes need a server in common"),
]
# A dispatch that was not confirmed is sent again after 10 s; a hanging broker or database is waited for.
TIMEOUT_S = 90


class World:
    """Three stuck runs: one to fail, one to send, and the last child of a parent; and sweeps in processes."""

    def __init__(self, redis, folder):
        self.redis, self.folder, self.processes = redis, folder, []
        self.environment = {**os.environ, "DATABASE_URL": database_url(), "CELERY_BROKER_URL": redis.url, "DEBUG": "1"}
        old = timezone.now() - 2 * HOUR
        source = Source.objects.create(name="source", url="http://127.0.0.1/")
        stamps = {"created_at": old, "queued_at": old, "source": source}
        began = {"status": "running", "started_at": old, "worker": "celery@gone/abc"}
        self.job = CrawlJob.objects.create(task_id=str(uuid4()), **began, **stamps)
        self.unsent = CrawlJob.objects.create(**{**stamps, "created_at": timezone.now() - MINUTE})
        self.parent = CrawlJob.objects.create(is_multi_source=True, status="running", created_at=old)
        self.child = CrawlJobSourceResult.objects.create(crawl_job=self.parent, task_id=str(uuid4()), **began, **stamps)

    # --- sweeps -----------------------------------------------------------------------------------------------

    def begin(self, *words, **environment):
        """Begin to sweep in a process."""
        words = [sys.executable, "-m", "tests.faults.sweeper", *words]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                words,
                cwd=processes.ROOT,
                env={**self.environment, **environment},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.processes.append(process)
        return process

    def sweep(self, **environment):
        """Sweep in a process, and return its output."""
        return self.begin(**environment).communicate(timeout=TIMEOUT_S)[0]

    def begin_and_halt(self, step):
        """Begin to sweep, and return the process when it stands still at a step."""
        process = self.begin(step, "halt")
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, what=f"it halts at {step}")
        return process

    def go_on(self, process):
        """Let it go on to its end; return its output."""
        process.send_signal(signal.SIGCONT)
        return process.communicate(timeout=TIMEOUT_S)[0]

    def log_text(self):
        """Return what the sweeps' processes have logged."""
        return (self.folder / "log").read_text()

    def end(self):
        for process in self.processes:
            process.kill()
            process.communicate()

    # --- outcomes of the runs ---------------------------------------------------------------------------------

    def is_recovered(self):
        unsent = fresh(self.unsent)
        unconfirmed = LedgerEntry.objects.exclude(new_task_id="").filter(published_at=None)
        owed = Sweep.objects.filter(revoked_at=None, idle=False)
        return (
            [fresh(each).status for each in (self.job, self.child, self.parent)] == ["failed"] * 3
            and unsent.task_id in self.redis.ids()
            and not unconfirmed.exists()
            and not owed.exists()
        )

    def recover(self):
        """Sweep until every run is recovered, and check that each was acted on once."""

        def recovered():
            return self.sweep() is not None and self.is_recovered()

        wait_until(recovered, TIMEOUT_S, what=f"everything is recovered, see {self.folder}")
        self.check()
        before = list(CrawlJob.objects.order_by("pk").values()), LedgerEntry.objects.count(), self.redis.ids()
        assert self.sweep().strip() == ""
        assert (list(CrawlJob.objects.order_by("pk").values()), LedgerEntry.objects.count(), self.redis.ids()) == before

    def check(self):
        """Each was acted on once, and every message is the run's own."""
        rows = {str(run.pk): [] for run in (self.job, self.unsent, self.parent, self.child)}
        for run_id, action in LedgerEntry.objects.order_by("id").values_list("run_id", "action"):
            rows[run_id].append(action)
        assert [rows[str(run.pk)] for run in (self.job, self.unsent, self.child)] == [["fail"], ["requeue"], ["fail"]]
        assert rows[str(self.parent.pk)] in ([], ["finalize"])
        assert set(self.redis.ids()) == {fresh(self.unsent).task_id}


@pytest.fixture
def redis():
    with redis_server() as server, broker_at(server.url):
        yield server


@pytest.fixture
def world(transactional_db, redis, tmp_path):
    world = World(redis, tmp_path)
    yield world
    world.end()


@contextmanager
def own_database(folder):
    """A durable server of the test's own with the tables of now, which Django's connection uses in the meantime."""
    folder.mkdir()
    server, before = Postgres(folder), {**connection.settings_dict}
    connection.close()
    try:
        connection.settings_dict.update(address_of(server.start()))
        call_command("migrate", verbosity=0)
        yield server
    finally:
        connection.close()
        connection.settings_dict.update(before)
        server.delete()


def address_of(url):
    """Return the address as Django's connection settings."""
    words = Env.db_url_config(url)
    return {name: words[name] for name in ("NAME", "USER", "PASSWORD", "HOST", "PORT")}


# --- the reaper's process ---------------------------------------------------------------------------------------------

DONE_BY_THEN = {"judged": 0, "recorded": 0, "written": 0, "committed": 1, "revoked": 1, "published": 1, "finalizing": 3}


@pytest.mark.fault("the reaper is killed at each step of a sweep")
@pytest.mark.parametrize("step", STEPS)
def test_killed_reaper_leaves_nothing_half_done(world, step):
    process = world.begin(step, "kill")
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == -signal.SIGKILL
    assert LedgerEntry.objects.count() == DONE_BY_THEN[step]
    assert Sweep.objects.filter(finished_at=None).exists() == (step != "judged")
    assert len(world.redis.ids()) == (step in ("published", "finalizing"))
    world.recover()


@pytest.mark.fault("two reapers sweep at the same time")
@pytest.mark.parametrize("step", ["judged", "committed"])
def test_two_concurrent_reapers_do_everything_once(world, step):
    both = [world.begin_and_halt("judged"), world.begin_and_halt(step)]
    outputs = [world.go_on(process) for process in both]
    assert [each.strip() for each in outputs] == ["", ""]
    assert sum(Sweep.objects.values_list("conflicts", flat=True)) >= 1
    world.recover()


# --- the database -----------------------------------------------------------------------------------------------------


@pytest.mark.fault("the database ends the reaper's session in the middle of a transaction")
@pytest.mark.parametrize("step", ["recorded", "written"])
def test_session_ended_in_a_transaction_changes_nothing(world, step):
    process = world.begin_and_halt(step)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE state = 'idle in transaction' AND datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert cursor.fetchone() == (1,)
    assert "could not be written" in world.go_on(process) or LedgerEntry.objects.count() == 0
    world.recover()


@pytest.mark.fault("the database is restarted in the middle of a sweep")
@pytest.mark.parametrize("step", ["recorded", "committed"])
def test_database_restart_during_sweep_loses_nothing_committed(redis, tmp_path, step):
    with own_database(tmp_path / "server") as server:
        world = World(redis, tmp_path)
        try:
            process = world.begin_and_halt(step)
            before = server.process().pid
            connection.close()
            server.stop()
            connection.settings_dict.update(address_of(server.start()))
            assert server.process().pid != before
            assert LedgerEntry.objects.count() == DONE_BY_THEN[step]
            world.environment["DATABASE_URL"] = database_url()
            world.go_on(process)
            assert "connection" in world.log_text()
            world.recover()
        finally:
            world.end()


@pytest.mark.fault("the database commits, and its answer is lost")
def test_commit_with_lost_answer_is_not_repeated(world):
    of = connection.settings_dict
    if not of["HOST"].startswith("/"):
        pytest.skip("the database has no unix socket")
    name = f".s.PGSQL.{of['PORT'] or 5432}"
    proxy = Proxy(world.folder / name, Path(of["HOST"]) / name)
    try:
        process = world.begin("recorded", "halt", DATABASE_URL=database_url().replace(of["HOST"], str(world.folder)))
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, what="it is in a transaction")
        proxy.lose = b"COMMIT"
        world.go_on(process)
        assert proxy.lost == 1
    finally:
        proxy.close()
    assert LedgerEntry.objects.filter(action="requeue").count() == 1
    world.recover()


@pytest.mark.fault("the database is read-only")
def test_read_only_database_is_logged_and_nothing_is_published(world):
    name = connection.settings_dict["NAME"]
    with connection.cursor() as cursor:
        cursor.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    try:
        world.sweep()
        assert "read-only transaction" in world.log_text()
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    assert LedgerEntry.objects.count() == 0
    assert world.redis.ids() == []
    world.recover()


@pytest.mark.fault("somebody has locked a run's row")
def test_locked_row_is_left_and_the_others_are_done(world):
    locked, done = threading.Event(), threading.Event()

    def hold():
        other = connection.copy()
        try:
            other.set_autocommit(False)
            with other.cursor() as cursor:
                cursor.execute("SELECT 1 FROM crawl_jobs WHERE id = %s FOR UPDATE", [world.job.pk])
                locked.set()
                done.wait(TIMEOUT_S)
            other.rollback()
        finally:
            other.close()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert locked.wait(TIMEOUT_S)
        world.sweep()
        assert [fresh(each).status for each in (world.job, world.child, world.parent)] == [
            "running",
            "failed",
            "failed",
        ]
    finally:
        done.set()
        thread.join()
    world.recover()


# --- the broker -------------------------------------------------------------------------------------------------------


@pytest.mark.fault("the broker refuses")
def test_refusing_broker_loses_nothing(world, tmp_path):
    output = world.sweep(CELERY_BROKER_URL=f"redis+socket://{tmp_path}/nobody.sock")
    assert "publishing to the broker failed" in output
    assert fresh(world.job).status == "failed"
    assert world.redis.ids() == []
    assert LedgerEntry.objects.get(action="requeue").published_at is None
    world.recover()


@pytest.mark.fault("the broker hangs")
def test_hanging_broker_loses_nothing(world):
    halt(world.redis.process.pid)
    try:
        output = world.sweep()
    finally:
        world.redis.process.send_signal(signal.SIGCONT)
    assert "publishing to the broker failed" in output
    assert fresh(world.job).status == "failed"
    world.recover()


@pytest.mark.fault("the broker takes a message, and its answer is lost")
def test_message_with_lost_confirmation_is_resent_with_the_same_id(world):
    proxy = Proxy(world.folder / "proxy.sock", world.redis.socket)
    try:
        proxy.lose = b"LPUSH"
        output = world.sweep(CELERY_BROKER_URL=f"redis+socket://{world.folder}/proxy.sock")
        assert proxy.lost == 1
    finally:
        proxy.close()
    assert "publishing to the broker failed" in output
    assert world.redis.ids() == [fresh(world.unsent).task_id]
    assert LedgerEntry.objects.get(action="requeue").published_at is None
    world.recover()
    assert len(world.redis.ids()) == 2


@pytest.mark.fault("the broker is killed with all that it holds, and comes back")
def test_broker_data_loss_during_sweep_leaves_one_confirmed_requeue(world):
    process = world.begin_and_halt("published")
    assert len(world.redis.ids()) == 1
    with world.redis.restarted():
        pass
    assert world.redis.ids() == []
    # It was confirmed before it was lost: only a live worker's report can show that the message is gone.
    world.go_on(process)
    assert LedgerEntry.objects.get(action="requeue").published_at is not None
    assert [fresh(each).status for each in (world.job, world.child, world.parent)] == ["failed"] * 3
    CrawlJob.objects.filter(pk=world.unsent.pk).update(queued_at=timezone.now() - timedelta(days=1))
    world.sweep()
    assert fresh(world.unsent).status == "pending"
    assert LedgerEntry.objects.filter(action="requeue").count() == 1


# --- the rules --------------------------------------------------------------------------------------------------------


@pytest.mark.fault("the kind is switched off in the middle of a sweep")
def test_kind_switched_off_during_sweep_is_left_alone(world):
    from reaper.conf import settings as conf
    from reaper.controls.modes import set_controls

    process = world.begin_and_halt("judged")
    adapter = conf.adapters()["crawl_job"]
    set_controls(adapter, "ada", timezone.now() - SECOND, mode="off")
    world.go_on(process)
    # The batch that was under way is the last one.
    assert fresh(world.job).status == "running"
    assert fresh(world.child).status == "failed"
    set_controls(adapter, "ada", timezone.now() - SECOND, mode="act")
    world.recover()


@pytest.mark.fault("the thresholds are edited in the middle of a sweep")
def test_thresholds_edited_during_sweep_apply_from_the_next_one(world):
    from reaper.conf import settings as conf
    from reaper.controls.overrides import set_overrides

    process = world.begin_and_halt("judged")
    for adapter in conf.adapters().values():
        year = timedelta(days=365)
        set_overrides(adapter, "ada", timezone.now(), {"run_timeout": year, "lost_grace": year})
    world.go_on(process)
    # The sweep that was under way goes by what it began with; the others began afterwards.
    assert fresh(world.unsent).task_id in world.redis.ids()
    assert [fresh(each).status for each in (world.job, world.child)] == ["running"] * 2
    for adapter in conf.adapters().values():
        set_overrides(adapter, "ada", timezone.now(), {})
    world.recover()


# --- a role that can do no more than it needs -------------------------------------------------------------------------


@pytest.fixture
def role():
    """A role of its own with what docs/DEPLOY.md grants."""
    name = f"service_{uuid4().hex[:8]}"
    page = (processes.ROOT / "docs" / "DEPLOY.md").read_text()
    (granted,) = re.findall(r"```sql\n(CREATE ROLE .*?)```", page, flags=re.DOTALL)
    with connection.cursor() as cursor:
        cursor.execute(granted.replace("crawler_service", name))
        yield name
        cursor.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_documented_role_can_sweep_and_nothing_else(world, role):
    of = connection.settings_dict
    world.environment["DATABASE_URL"] = database_url().replace(f"//{of['USER']}", f"//{role}", 1)
    world.recover()
    other = connection.copy()
    other.settings_dict = {**of, "USER": role, "PASSWORD": ""}
    try:
        for forbidden in (
            "TRUNCATE reaper_ledgerentry",
            "DROP TRIGGER reaper_protect_ledger ON reaper_ledgerentry",
            "ALTER TABLE reaper_ledgerentry DISABLE TRIGGER ALL",
            "DROP TABLE reaper_ledgerentry",
            "UPDATE reaper_ledgerentry SET reason = 'other'",
            "DELETE FROM reaper_ledgerentry",
        ):
            with pytest.raises(DatabaseError), other.cursor() as cursor:
                cursor.execute(forbidden)
    finally:
        other.close()
    assert LedgerEntry.objects.count() >= 3
