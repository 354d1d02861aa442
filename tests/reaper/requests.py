"""Requests as a worker keeps them, for tests without a worker."""


class Task:
    """A task that a worker holds. Celery keeps its own in weak sets."""

    def __init__(self, task_id, time_start=None):
        self.id, self.time_start = task_id, time_start
