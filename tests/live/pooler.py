"""A PgBouncer in front of the test database: each transaction may get another session."""

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg2
from django.db import connection

from tests.processes import end, free_port, start, wait_until

# A session lives for a second, so that its end is often seen while the worker lives.
SETTINGS = """
[databases]
{name} = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
server_lifetime = 1
server_idle_timeout = 1
ignore_startup_parameters = extra_float_digits,options
"""


def is_installed() -> bool:
    """Whether this host has PgBouncer."""
    return shutil.which("pgbouncer") is not None


@contextmanager
def pooler() -> Iterator[str]:
    """The address of a pooler in transaction mode, which it serves."""
    of, listen = connection.settings_dict, free_port()
    with tempfile.TemporaryDirectory(prefix="pooler-") as folder:
        Path(folder).chmod(0o755)
        file = Path(folder) / "pgbouncer.ini"
        file.write_text(
            SETTINGS.format(name=of["NAME"], host=of["HOST"], port=of["PORT"] or 5432, user=of["USER"], listen=listen)
        )
        words = ["pgbouncer", str(file)]
        if os.geteuid() == 0:
            # It refuses to run as root; the owner of the server can read the folder of its socket.
            owner = Path(of["HOST"]).stat().st_uid if of["HOST"].startswith("/") else 0
            words += ["-u", pwd.getpwuid(owner).pw_name if owner else "nobody"]
        process = start(*words, log=Path(folder) / "log")
        url = f"postgres://{of['USER']}@127.0.0.1:{listen}/{of['NAME']}"

        def answers() -> bool:
            assert process.poll() is None, (Path(folder) / "log").read_text()
            with suppress(psycopg2.OperationalError):
                psycopg2.connect(url).close()
                return True
            return False

        try:
            wait_until(answers, what="PgBouncer answers")
            yield f"{url}?DISABLE_SERVER_SIDE_CURSORS=true"
        finally:
            end(process)
