"""The name of the worker that this process belongs to, also in the children of its pool."""

import uuid
from typing import NamedTuple

# The length of the column that stores it.
MAX_HOSTNAME = 255


class WorkerIdentity(NamedTuple):
    """One start of a worker."""

    hostname: str
    """The node name by which Celery knows the worker, such as "celery@web1"."""
    incarnation: str
    """Which start of that node it is: random, so that a worker and its successor can be distinguished."""

    @property
    def name(self) -> str:
        """Return "hostname/incarnation", the name that a run's row carries."""
        return f"{self.hostname}/{self.incarnation}"


current: WorkerIdentity | None = None
"""The identity of this process; None outside of a worker."""


def worker_name() -> str:
    """Return "hostname/incarnation" of the worker that this runs in, also in its pool's children; '' elsewhere."""
    return current.name if current else ""


def assign_identity(hostname: str) -> None:
    """Give this process a new incarnation of the hostname. Call it before the pool forks."""
    global current
    current = WorkerIdentity(hostname[:MAX_HOSTNAME], uuid.uuid4().hex[:12])
