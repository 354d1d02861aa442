"""Whether this process is up (/healthz), and whether it could do its work now (/readyz): each question bounded in time.

Anyone can read a problem's sentence: it never contains an address, an account or an error's text.
"""

import logging
import threading
from collections.abc import Callable

from celery import current_app
from django.db import connections
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse

logger = logging.getLogger(__name__)

SECONDS = 3.0  # for each question; a prober's own limit is 5 s or more
# A connection of its own, tried once: one from Celery's pool would wait for the broker.
BROKER_TIMEOUTS = {"socket_timeout": 2, "socket_connect_timeout": 1, "max_retries": 0, "connect_retries_timeout": 1}


class Probes:
    """The middleware that answers the two probes before anything else.

    A prober calls by the machine's address, without TLS: neither ALLOWED_HOSTS nor the redirect to https is for it.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer a probe, or let the request pass."""
        if request.path == "/healthz":
            return plain("ok")
        if request.path == "/readyz":
            found = problems()
            return plain("\n".join(found) or "ready", 503 if found else 200)
        return self.get_response(request)


def plain(text: str, status: int = 200) -> HttpResponse:
    """Return an answer that no cache keeps."""
    headers = {"Cache-Control": "no-store"}
    return HttpResponse(f"{text}\n", status=status, content_type="text/plain; charset=utf-8", headers=headers)


def problems() -> list[str]:
    """What keeps this process from its work, one plain sentence each; both are asked at the same time."""
    answers = [TimedProbe("database", database_problem), TimedProbe("broker", broker_problem)]
    return [sentence for answer in answers if (sentence := answer.get())]


class TimedProbe:
    """A check that runs in a thread, so that a server that hangs does not block the request."""

    asked: dict[str, threading.Thread] = {}

    def __init__(self, name: str, ask: Callable[[], str]) -> None:
        self.name = name
        self.answer = f"The {name} does not answer within {SECONDS:g} s."
        self.ask = ask
        # One that still hangs is not joined by a second: probes come for ever.
        before = TimedProbe.asked.get(name)
        self.thread = None if before and before.is_alive() else threading.Thread(target=self._run, daemon=True)
        if self.thread:
            TimedProbe.asked[name] = self.thread
            self.thread.start()

    def get(self) -> str:
        """Return what is wrong, or ''."""
        if self.thread:
            self.thread.join(SECONDS)
        return self.answer

    def _run(self) -> None:
        try:
            self.answer = self.ask()
        # What a broken server raises varies: the client libraries' own errors, RuntimeError, UnicodeDecodeError.
        except Exception as error:
            logger.warning("The %s cannot be used: %s: %s", self.name, type(error).__name__, error)
            self.answer = f"The {self.name} cannot be reached."


def database_problem() -> str:
    """What is wrong with the database, or ''."""
    connection = connections["default"]  # of this thread alone
    try:
        executor = MigrationExecutor(connection)
        missing = len(executor.migration_plan(executor.loader.graph.leaf_nodes()))
    finally:
        connection.close()
    return f"The database lacks {missing} migrations: run manage.py migrate." if missing else ""


def broker_problem() -> str:
    """What is wrong with the broker, or ''."""
    options = {**current_app.conf.broker_transport_options, **BROKER_TIMEOUTS}
    with current_app.connection_for_write(transport_options=options, connect_timeout=1) as connection:
        connection.ensure_connection(max_retries=0, timeout=1)
    return ""
