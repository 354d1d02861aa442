"""Transactions that give up instead of blocking others."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connections, transaction

LOCK_TIMEOUT = "250ms"
"""How long PostgreSQL waits for a lock in a short transaction. A worker's write holds its row for milliseconds."""
STATEMENT_TIMEOUT = "5s"
"""How long one statement of a short transaction may take in PostgreSQL."""


@contextmanager
def short_transaction(using: str) -> Iterator[None]:
    """Open a transaction that is bounded in time. Raise RuntimeError inside another transaction.

    Durable: inside a caller's transaction the messages would go out before its commit. The bounds hold in PostgreSQL
    only; there, exceeding them raises OperationalError.
    """
    # guard: no sweep inside a transaction
    with transaction.atomic(using=using, durable=True):
        connection = connections[using]
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                sql = "SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true)"
                cursor.execute(sql, [LOCK_TIMEOUT, STATEMENT_TIMEOUT])
        yield
