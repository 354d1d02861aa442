"""Shared by the tools: exit statuses, environment, interrupts, and the check that the servers are empty.

A tool fills the PostgreSQL and the Redis that DATABASE_URL and CELERY_BROKER_URL name, so both have to be empty: the
Makefile's targets start throwaway ones.
"""

import os
import secrets
import signal
import sys
from enum import IntEnum
from pathlib import Path


class ExitStatus(IntEnum):
    """What a tool exits with."""

    OK = 0
    FAILED = 1
    USAGE = 2
    """Nothing was started: the servers are missing or not empty."""
    INTERRUPTED = 130
    """128 + SIGINT, as shells have it."""


def has_server_addresses(tool: str) -> bool:
    """Whether both addresses are set; print what is missing otherwise."""
    for name in ("DATABASE_URL", "CELERY_BROKER_URL"):
        if not os.environ.get(name):
            print(f"{name} is not set: start this with `make {tool}`, which sets it.", file=sys.stderr)
            return False
    return True


def has_empty_servers(tool: str) -> bool:
    """Whether database and broker are empty; print what they hold otherwise. Needs Django to be set up."""
    contents = server_contents()
    if contents:
        print(f"Empty servers are needed, and {contents}: start this with `make {tool}`.", file=sys.stderr)
    return not contents


def server_contents() -> str:
    """Return what the database or the broker holds already; '' when both are empty."""
    from celery import current_app
    from django.db import connection

    if tables := connection.introspection.table_names():
        return f"this database has {len(tables)} tables"
    with current_app.connection_for_read() as broker:
        keys = broker.default_channel.client.dbsize()
    return f"this Redis has {keys} keys" if keys else ""


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return the environment of all processes: the shell's, with a journal in `folder` and `more`."""
    return (
        os.environ
        | {
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "DEBUG": "1",
            "SECRET_KEY": secrets.token_urlsafe(50),
            "ALLOWED_HOSTS": "127.0.0.1",
            "PYTHONUNBUFFERED": "1",
            "CRAWL_ALLOW_PRIVATE": "1",
            "CRAWL_JOURNAL": str(folder / "journal.jsonl"),
        }
        | more
    )


class Interrupts:
    """Signals that end a tool, acted on only where it asks: never in the middle of starting a process."""

    def __init__(self) -> None:
        self.is_interrupted = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def check(self) -> None:
        """Raise KeyboardInterrupt if one of the signals has arrived."""
        if self.is_interrupted:
            raise KeyboardInterrupt

    def _note(self, _number: int, _frame: object) -> None:
        self.is_interrupted = True


def interrupt_on_sigterm() -> None:
    """Let SIGTERM raise KeyboardInterrupt at once, as Ctrl-C does, so that `finally` blocks stop what was started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def prepare_database(sweep_seconds: int) -> str:
    """Migrate, set the sweeps' intervals as an admin would, and return the login for the admin site."""
    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django_celery_beat.models import IntervalSchedule, PeriodicTask

    call_command("migrate", verbosity=0)
    interval, _ = IntervalSchedule.objects.get_or_create(every=sweep_seconds, period=IntervalSchedule.SECONDS)
    for name in ("reaper.tasks.sweep_pending", "reaper.tasks.finalize_parents"):
        schedule = PeriodicTask.objects.get(task=name)
        schedule.interval = interval
        schedule.expire_seconds = sweep_seconds
        schedule.save()
    password = secrets.token_urlsafe(9)
    get_user_model().objects.create_superuser("admin", password=password)
    return f"admin, password {password}"
