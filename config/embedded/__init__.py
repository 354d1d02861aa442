"""A real PostgreSQL and a real Redis for development and tests, when no others are named.

Settings ask here for what DATABASE_URL and CELERY_BROKER_URL leave open. A server that is not running is started, once
however many commands ask at once, and stays after them; its data and its address are in the state folder (REAPER_STATE,
or .state beside manage.py), where every later command finds them. `python -m config.embedded start` starts them too.

Only this file is imported where both variables are set: a deployment needs none of the packages behind it.
"""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from config.embedded.server import Server

VARIABLES = {"postgres": "DATABASE_URL", "redis": "CELERY_BROKER_URL"}
STOP_COMMAND = "python -m config.embedded stop"


class EmbeddedError(SystemExit):
    """An embedded server cannot be had. Unhandled, it ends the command with its one sentence, without a traceback."""


def database_url() -> str:
    """The address of the embedded PostgreSQL, which is started when it is not running."""
    return address("postgres")


def broker_url() -> str:
    """The address of the embedded Redis, which is started when it is not running."""
    return address("redis")


def address(name: str, state: Path | None = None, *, durable: bool = True) -> str:
    """The address of the server with this name; with `durable` off one whose data need not survive a crash."""
    server = servers_of(state, durable=durable)[name]
    if url := server.url():
        return url
    with locked(server.state):
        url = server.url()
        if url is None:
            url = server.start()
            if durable and server.state == state_folder():
                print(
                    f"Started the embedded {server.title} of {server.state}; to stop it: {STOP_COMMAND}",
                    file=sys.stderr,
                )
    return url


def stop(state: Path | None = None) -> list[str]:
    """Stop the servers of the state folder and return the titles of those that were running; their data stay."""
    state = state or state_folder()
    if not state.is_dir():
        return []
    with locked(state):
        return [server.title for server in servers_of(state).values() if server.stop()]


def delete(state: Path | None = None) -> None:
    """Stop the servers of the state folder and delete their data, also those kept elsewhere."""
    state = state or state_folder()
    if state.is_dir():
        with locked(state):
            for server in servers_of(state).values():
                server.delete()


def state_folder() -> Path:
    """The state folder of this checkout, or the one named by REAPER_STATE."""
    return Path(os.environ.get("REAPER_STATE") or Path(__file__).parents[2] / ".state").absolute()


def servers_of(state: Path | None = None, *, durable: bool = True) -> dict[str, "Server"]:
    """The two servers of a state folder, by name, running or not."""
    try:
        from config.embedded.postgres import Postgres
        from config.embedded.redis_server import Redis
    except ModuleNotFoundError as error:
        wanted = " and ".join(VARIABLES.values())
        raise EmbeddedError(
            f"The embedded servers need {error.name}: set {wanted} (and DEBUG=0 in production), or run make setup."
        ) from error
    state = state or state_folder()
    return {server.name: server for server in (Postgres(state, durable=durable), Redis(state, durable=durable))}


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """Hold the state folder, made if need be, for oneself."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = (state / "lock").open("a")
    except OSError as error:
        raise EmbeddedError(f"The state folder {state} cannot be used ({error.strerror}): set REAPER_STATE.") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
