"""The Celery app: `celery -A config.celery …`."""

import logging
import os
from typing import Any

from celery import Celery
from celery.signals import heartbeat_sent, setup_logging, worker_init

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("config")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@setup_logging.connect
def log_like_django(loglevel: int | None, **_: Any) -> None:
    """Keep the settings' LOGGING, which Django has set up by now; of --loglevel and LOG_LEVEL the chattier counts."""
    root = logging.getLogger()
    root.setLevel(min(root.level, loglevel or root.level))


@worker_init.connect
def wait_for_database(**_: Any) -> None:
    """Wait until there is a database that the tasks can work on."""
    from config import lifecycle  # which needs Django, and this file comes before it

    lifecycle.wait_for_database()


@heartbeat_sent.connect
def show_alive(**_: Any) -> None:
    """Show that the worker's event loop runs and reaches its broker."""
    from config import lifecycle

    lifecycle.show_alive()
