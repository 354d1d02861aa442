"""The reaper's clock."""

from datetime import datetime

from django.db import connections
from django.utils import timezone

from reaper.conf.settings import get_settings


def now(using: str) -> datetime:
    """Return the time of the database `using`, so that sweeps on several hosts agree whatever their own clocks say.

    PostgreSQL only; with other databases it is this host's time. `REAPER["CLOCK"] = "host"` reads the host's clock
    everywhere, which is what tests with a frozen time need.
    """
    connection = connections[using]
    if get_settings().clock == "host" or connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        return cursor.fetchone()[0]
