"""Import this below your Celery app for `celery inspect query TASK_ID`: it registers the command.

Celery's command line runs no `django.setup()`, so it knows only the commands that the project's Celery module imports.
Workers need no import: they learn the command from the installed app.
"""

from reaper.workers.inspect_command import query

__all__ = ["query"]
