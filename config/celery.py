"""The Celery app: `celery -A config.celery …`."""

import logging
import os
import sys
from importlib import import_module
from typing import Any

from celery import Celery
from celery.signals import celeryd_after_setup, heartbeat_sent, setup_logging

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("config")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@setup_logging.connect
def log_like_django(loglevel: int | None, **_: Any) -> None:
    """Keep the settings' LOGGING, which Django has set up by now; the more verbose of --loglevel and LOG_LEVEL wins."""
    root = logging.getLogger()
    root.setLevel(min(root.level, loglevel or root.level))


@celeryd_after_setup.connect
def wait_for_database(**_: Any) -> None:
    """Wait until the database is usable; mistakes in the settings were reported before."""
    from config import lifecycle  # which needs Django, and this file comes before it

    lifecycle.wait_for_database()


@heartbeat_sent.connect
def show_alive(**_: Any) -> None:
    """Show that the worker's event loop runs and reaches its broker."""
    from config import lifecycle

    lifecycle.show_alive()


# Celery's command line runs no django.setup(): what it is to know is imported here, and only for it (half a second).
if "celery.bin.celery" in sys.modules:
    for name in ("reaper.celery_commands", "config.command_line"):
        import_module(name)
