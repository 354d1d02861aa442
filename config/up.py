"""`make up`: the whole stack with production's thresholds, until Ctrl-C.

Web, two crawl workers, the reaper's worker and exactly one Beat, on the servers that the environment names or on the
embedded ones. supervisord keeps them: what dies is started again, so that a worker can be killed to watch the reaper
at work. Here is what comes before it and after it, and the names before the lines.
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
import threading
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

import psutil

from config import embedded

ROOT = Path(__file__).resolve().parent.parent
STOP_NOTE = "stopping; workers have 30 s to finish their tasks, a second Ctrl-C ends them at once"
ROOT_WARNING = "You're running the worker with superuser privileges"  # Celery's; nobody in a container can help it

# `user` is named, or root is warned of being root. A group stops at once, programs without one in turn.
SUPERVISORD = """
[supervisord]
nodaemon = true
user = {user}
logfile = /dev/null
logfile_maxbytes = 0
pidfile = {state}/supervisord.pid

[group:stack]
programs = {names}
"""
# What ends within startsecs of each of its starts will not get well. The kill alone is for the group too: a Celery
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
stdout_logfile = /dev/fd/{output}
stdout_logfile_maxbytes = 0
"""


def main() -> int:
    """Run the stack and return 0 after a signal, 1 when a process could not be kept running."""
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda caught, _frame: signals.append(caught))
    started = _start_servers()
    try:
        environment, login = _prepare()
        port = _free_port(8000)
        return supervise(_commands(port), environment, signals, f"http://127.0.0.1:{port}/admin/", login)
    finally:
        if started:
            embedded.stop()


def supervise(
    commands: dict[str, list[str]], environment: dict[str, str], signals: list[int], url: str, login: str
) -> int:
    """Keep the commands running under supervisord until there is a signal (0) or one cannot be kept running (1)."""
    # supervisord does not tell whose line a line is: each process gets a pipe of its own.
    pipes = {name: os.pipe() for name in ["up", *commands]}
    outputs = {name: output for name, (_, output) in pipes.items()}
    supervisord = subprocess.Popen(
        [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(_write_config(commands, outputs))],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=outputs["up"],
        stderr=subprocess.STDOUT,
        pass_fds=outputs.values(),
        start_new_session=True,  # the terminal's Ctrl-C is for `up`; its hang-up would be a restart for supervisord
    )
    failures: list[str] = []
    printers = [threading.Thread(target=_print, args=[name, pipe, failures]) for name, (pipe, _) in pipes.items()]
    for printer in printers:
        printer.start()
    for output in outputs.values():
        os.close(output)
    try:
        _wait(supervisord, signals, failures, url, login)
    finally:
        kill_session(supervisord.pid)
        for printer in printers:
            printer.join()
    if failures:
        say("up", f"gave up: {failures[0]} ended again and again right after its start; its own lines say why")
    return 0 if signals and not failures else 1


def say(name: str, line: str) -> None:
    """Print one line of one process."""
    with contextlib.suppress(OSError):  # the reader or the terminal is gone; what is said meanwhile is for nobody
        print(f"{name:<6} | {line}\n", end="", flush=True)


def kill_session(session: int) -> None:
    """Kill every process of a session: whatever supervisord starts stays in its own."""
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == session:
                os.kill(pid, signal.SIGKILL)


def _wait(supervisord: subprocess.Popen, signals: list[int], failures: list[str], url: str, login: str) -> None:
    """Return when supervisord has ended; a first signal or a failure asks it to, a second signal ends it and all."""
    told = stopping = False
    while supervisord.poll() is None:
        if len(signals) > 1:
            kill_session(supervisord.pid)
        elif (signals or failures) and not stopping:
            stopping = True
            say("up", STOP_NOTE)
            supervisord.terminate()
        elif not (told or stopping) and _answers(url):
            told = True
            bar = "=" * 72
            print(f"\n{bar}\n  Admin:  {url}\n  Login:  {login}\n  Stop:   Ctrl-C\n{bar}\n", flush=True)
        time.sleep(0.2)


def _print(name: str, pipe: int, failures: list[str]) -> None:
    with open(pipe, errors="replace") as lines:
        for line in lines:
            say(name, line.rstrip())
            if name == "up" and (failed := re.search(r"gave up: (\S+) entered FATAL state", line)):
                failures.append(failed[1])


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
    """Migrate and make the login; return the stack's environment and what to tell about the login."""
    kept = _kept_secrets()
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), f"ignore:{ROOT_WARNING}"])),
    }
    environment.setdefault("DEBUG", "1")
    environment.setdefault("SECRET_KEY", kept["secret_key"])
    # In a session of their own: a Ctrl-C waits for their end.
    run = partial(subprocess.run, cwd=ROOT, check=False, text=True, start_new_session=True)
    manage = [sys.executable, "manage.py"]
    if run([*manage, "migrate", "--verbosity", "0"], env=environment).returncode:
        raise SystemExit("The database could not be migrated.")
    made = run(
        [*manage, "createsuperuser", "--noinput", "--username", "admin", "--email", "admin@localhost"],
        env=environment | {"DJANGO_SUPERUSER_PASSWORD": kept["password"]},
        capture_output=True,
    )
    if made.returncode and "already taken" not in made.stderr:
        raise SystemExit(made.stderr)
    if made.returncode and not kept.get("used"):
        return environment, "admin, with the password it already had"
    _keep_secrets(kept | {"used": "yes"})
    return environment, f"admin, password {kept['password']}"


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


def _write_config(commands: dict[str, list[str]], outputs: dict[str, int]) -> Path:
    file = embedded.state_folder() / "supervisord.conf"
    file.parent.mkdir(parents=True, exist_ok=True)
    text = SUPERVISORD.format(user=os.geteuid(), state=file.parent, names=",".join(commands))
    for name, words in commands.items():
        text += PROGRAM.format(name=name, command=shlex.join(words), output=outputs[name])
    file.write_text(text.replace("%", "%%"))  # nothing in it is for supervisord to expand
    return file


if __name__ == "__main__":
    sys.exit(main())
