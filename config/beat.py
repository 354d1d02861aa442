"""Beat's scheduler: django-celery-beat's, which would crash where the database is not ready yet."""

from typing import Any

from django_celery_beat.schedulers import DatabaseScheduler

from config import lifecycle


class DatabaseWaitingScheduler(DatabaseScheduler):
    """Waits for the database before it reads the schedules, and shows after each round that it is alive."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        lifecycle.wait_for_database()
        super().__init__(*args, **kwargs)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due; return how long to sleep."""
        seconds = super().tick(*args, **kwargs)
        lifecycle.show_alive()
        return seconds
