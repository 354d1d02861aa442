"""The Celery app: `celery -A config.celery …`."""

import os
import sys
from importlib import import_module

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("config")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

# Celery's command line runs no django.setup(): what it is to know is imported here, and only for it (half a second).
if "celery.bin.celery" in sys.modules:
    for name in ("reaper.inspecting", "config.command_line"):
        import_module(name)
