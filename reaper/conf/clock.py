"""The reaper's clock."""

from datetime import datetime

from django.db import connections
from django.utils import timezone

from reaper.conf import settings as conf


def now(using: str) -> datetime:
    """Return the time of the database `using`: sweeps on several hosts then agree on it whatever their own clocks say.

    PostgreSQL only; other databases' clocks are taken to be this host's. `REAPER["CLOCK"] = "host"` asks the host
    everywhere, which is what tests with frozen time need.
    """
    connection = connections[using]
    if conf.clock() == "host" or connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        return cursor.fetchone()[0]
