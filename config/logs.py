"""Where log lines go and what they look like: the same for web, workers, Beat and commands."""

import logging
from typing import Any

from celery import current_task

LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# The record's own names on the left, what a log store expects on the right.
RENAMED = {"asctime": "time", "levelname": "level", "name": "logger"}


class TaskName(logging.Filter):
    """Adds to a line that a task wrote the task's id and name."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        if current_task and current_task.request.id:
            record.task_id = current_task.request.id
            record.task_name = current_task.name
        return True


def configuration(*, as_json: bool, stream: str, level: str) -> dict[str, Any]:
    """Return a configuration for `logging.config.dictConfig`: to one stream, as text or one JSON object a line."""
    json_lines = {
        "()": "pythonjsonlogger.json.JsonFormatter",
        "fmt": "%(asctime)s %(levelname)s %(name)s %(message)s",
        "rename_fields": RENAMED,
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"task": {"()": "config.logs.TaskName"}},
        "formatters": {"line": json_lines if as_json else {"format": LINE}},
        "handlers": {
            "stream": {
                "class": "logging.StreamHandler",
                "stream": f"ext://sys.{stream.lower()}",
                "formatter": "line",
                "filters": ["task"],
            }
        },
        # Django's and gunicorn's own handlers would print the same a second time, in another form.
        "loggers": {
            name: {"handlers": [], "propagate": True}
            for name in ("django", "django.server", "gunicorn.error", "gunicorn.access")
        },
        "root": {"handlers": ["stream"], "level": level},
    }
