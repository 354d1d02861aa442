"""`make up`: the whole deployment with production's policy, until Ctrl-C.

Web, two crawl workers, the reaper's worker and exactly one Beat, on the servers that the environment names or on the
embedded ones. supervisord keeps them running: what dies is started again, so that a worker can be killed to watch the
reaper at work. Each process logs to a file of its own below the state folder.
"""

import contextlib
import json
import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

import psutil

from config import embedded

ROOT = Path(__file__).resolve().parent.parent
STOP_NOTE = "Stopping: workers have 30 s to finish their tasks; a second Ctrl-C ends them at once."
ROOT_WARNING = "You're running the worker with superuser privileges"  # Celery's; in a container root is usual
POLL_SECONDS = 0.2

# `user` is named because supervisord warns when root leaves it out. A group stops at once; without one, one by one.
SUPERVISORD = """
[supervisord]
nodaemon = true
silent = true
user = {user}
logfile = {logs}/supervisord.log
logfile_maxbytes = 0
pidfile = {logs}/supervisord.pid

[group:stack]
programs = {names}
"""
# A program that ends within startsecs of each of its starts is given up. Only the kill is for its whole group: a Celery
# worker whose children get a TERM loses their tasks.
PROGRAM = """
[program:{name}]
command = {command}
autorestart = true
startsecs = 10
startretries = 3
stopwaitsecs = 30
killasgroup = true
redirect_stderr = true
stdout_logfile = {logs}/{name}.log
stdout_logfile_maxbytes = 0
"""


class Site(NamedTuple):
    """Where the started stack is, for people."""

    url: str
    login: str


def main() -> int:
    """Run the stack and return 0 after a signal, 1 when a process could not be kept running."""
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda caught, _frame: signals.append(caught))
    has_started_servers = _start_servers()
    try:
        environment, login = _prepare()
        port = _free_port(8000)
        return supervise(_commands(port), environment, signals, Site(f"http://127.0.0.1:{port}/admin/", login))
    finally:
        if has_started_servers:
            embedded.stop()


def supervise(commands: dict[str, list[str]], environment: dict[str, str], signals: list[int], site: Site) -> int:
    """Keep the commands running under supervisord until there is a signal (0) or one cannot be kept running (1)."""
    logs = _empty_logs([*commands, "supervisord"])
    supervisord = subprocess.Popen(
        [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(_write_config(commands, logs))],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # the terminal's Ctrl-C is for `up`; its hang-up would be a restart for supervisord
    )
    _print(f"Starting {', '.join(commands)}. Their logs: {logs}/*.log")
    try:
        _wait(supervisord, signals, logs, site)
    finally:
        kill_session(supervisord.pid)
    failed = _given_up(logs)
    if failed:
        _print(f"{failed} ended again and again right after its start. See {logs / failed}.log")
    return 0 if signals and not failed else 1


def kill_session(session: int) -> None:
    """Kill every process of a session: whatever supervisord starts stays in its own."""
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == session:
                os.kill(pid, signal.SIGKILL)


def _wait(supervisord: subprocess.Popen, signals: list[int], logs: Path, site: Site) -> None:
    """Return when supervisord has ended; a first signal or a failure asks it to, a second signal ends it and all."""
    is_up = is_stopping = False
    while supervisord.poll() is None:
        if len(signals) > 1:
            kill_session(supervisord.pid)
        elif (signals or _given_up(logs)) and not is_stopping:
            is_stopping = True
            _print(STOP_NOTE)
            supervisord.terminate()
        elif not (is_up or is_stopping) and _answers(site.url):
            is_up = True
            bar = "=" * 72
            _print(f"\n{bar}\n  Admin:  {site.url}\n  Login:  {site.login}\n  Stop:   Ctrl-C\n{bar}\n")
        time.sleep(POLL_SECONDS)


def _print(text: str) -> None:
    """Print, also where the reader or the terminal is gone already."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def _given_up(logs: Path) -> str:
    """Return the program that supervisord does not start again; '' while there is none."""
    found = re.search(r"gave up: (\S+) entered FATAL state", _read(logs / "supervisord.log"))
    return found[1] if found else ""


def _read(log: Path) -> str:
    return log.read_text(errors="replace") if log.exists() else ""


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):  # noqa: S310 # our own address
            return True
    except (urllib.error.URLError, OSError):
        return False


def _start_servers() -> bool:
    """Start what the environment does not name; True when this has started something."""
    before = [server.url() for server in embedded.servers_of().values()]
    for name, variable in embedded.VARIABLES.items():
        if not os.environ.get(variable):
            embedded.address(name)
    return [server.url() for server in embedded.servers_of().values()] != before


def _prepare() -> tuple[dict[str, str], str]:
    """Migrate and create the admin; return the stack's environment and the login for people."""
    kept = _kept_secrets()
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), f"ignore:{ROOT_WARNING}"])),
    }
    environment.setdefault("DEBUG", "1")
    environment.setdefault("SECRET_KEY", kept["secret_key"])
    # In a session of its own: a Ctrl-C waits for its end.
    migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    if subprocess.run(migrate, cwd=ROOT, env=environment, check=False, start_new_session=True).returncode:
        raise SystemExit("The database could not be migrated.")
    return environment, _create_admin(environment, kept)


def _create_admin(environment: dict[str, str], kept: dict[str, str]) -> str:
    """Create the admin unless there is one; return the login. Raises SystemExit when that fails."""
    created = subprocess.run(
        [sys.executable, "manage.py", "createsuperuser", "--noinput", "--username=admin", "--email=admin@localhost"],
        cwd=ROOT,
        env=environment | {"DJANGO_SUPERUSER_PASSWORD": kept["password"]},
        check=False,
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    if created.returncode and "already taken" not in created.stderr:
        raise SystemExit(created.stderr)
    if created.returncode and not kept.get("used"):
        return "admin, with the password it already had"
    _keep_secrets(kept | {"used": "yes"})
    return f"admin, password {kept['password']}"


def _kept_secrets() -> dict[str, str]:
    file = embedded.state_folder() / "secrets.json"
    with contextlib.suppress(FileNotFoundError, ValueError):
        return json.loads(file.read_text())
    return {"password": secrets.token_urlsafe(12), "secret_key": secrets.token_urlsafe(64)}


def _keep_secrets(kept: dict[str, str]) -> None:
    file = embedded.state_folder() / "secrets.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        json.dump(kept, stream)


def _free_port(preferred: int) -> int:
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return probe.getsockname()[1]
    raise SystemExit("No port is free on 127.0.0.1.")


def _commands(port: int) -> dict[str, list[str]]:
    python = [sys.executable, "-m"]
    celery = [*python, "celery", "-A", "config.celery"]
    worker = [*celery, "worker", "--loglevel", "info"]
    bind = f"127.0.0.1:{port}"
    return {
        "web": [*python, "gunicorn", "config.wsgi", "--bind", bind, "--threads", "4", "--no-control-socket"],
        "crawl1": [*worker, "-Q", "default,crawl", "-n", "crawl1@%h", "--concurrency", "2"],
        "crawl2": [*worker, "-Q", "default,crawl", "-n", "crawl2@%h", "--concurrency", "2"],
        "reaper": [*worker, "-Q", "reaper", "-n", "reaper@%h", "--concurrency", "2"],
        "beat": [*celery, "beat", "--loglevel", "info", "--pidfile="],
    }


def _empty_logs(names: list[str]) -> Path:
    """Return the folder of the logs, with those of these programs emptied."""
    logs = embedded.state_folder() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for name in names:
        (logs / f"{name}.log").write_text("")
    return logs


def _write_config(commands: dict[str, list[str]], logs: Path) -> Path:
    file = embedded.state_folder() / "supervisord.conf"
    text = SUPERVISORD.format(user=os.geteuid(), logs=logs, names=",".join(commands))
    for name, words in commands.items():
        # supervisord expands the name of a program's log twice.
        text += PROGRAM.format(name=name, command=shlex.join(words), logs=str(logs).replace("%", "%%"))
    file.write_text(text.replace("%", "%%"))  # supervisord would expand what follows a single one
    return file


if __name__ == "__main__":
    sys.exit(main())
