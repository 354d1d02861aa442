"""Processes, accounts and folders for the embedded servers."""

import os
import pwd
import socket
import subprocess
import tempfile
from pathlib import Path

import psutil

from config.embedded import EmbeddedError

Account = pwd.struct_passwd | None  # None: the account we run as


def short_folders() -> list[str]:
    """Places for temporary folders whose paths leave room for a socket's name (about 100 bytes in all)."""
    return [path for path in (tempfile.gettempdir(), "/tmp", "/var/tmp") if len(path) < 60]  # noqa: S108 # for mkdtemp


def environment() -> dict[str, str]:
    """A server's environment: of the user's shell (PGDATA, PGPORT, a locale, secrets) only where programs are."""
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"} | {
        key: os.environ[key] for key in kept if key in os.environ
    }


def identity(account: Account) -> dict:
    """The arguments that make `subprocess` run something as `account`."""
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}


def call(command: list, account: Account) -> subprocess.CompletedProcess[str]:
    """Run a short program to its end as `account`, its two outputs as one text."""
    return subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
        cwd="/",
        env=environment(),
        start_new_session=True,  # a Ctrl-C is for the command that asked, not for this
        **identity(account),
    )


def start_detached(command: list[str], log: Path, account: Account) -> int:
    """Start `command` as nobody's child: it outlives its starter, and a kill of the starter's whole tree."""
    with log.open("ab") as stream:
        started = subprocess.run(
            ["/bin/sh", "-c", '"$@" >&2 & echo $!', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stream,
            check=True,
            cwd="/",
            env=environment(),
            start_new_session=True,
            **identity(account),
        )
    return int(started.stdout)


def version_of(program: Path, account: Account) -> str | None:
    """What the program says to --version; None when `account` cannot run it."""
    try:
        asked = call([program, "--version"], account)
    except OSError:
        return None
    return asked.stdout.strip() if asked.returncode == 0 else None


def reaches(account: Account, folder: Path) -> bool:
    """Whether `account` may go into the folder, asked of the system itself: all its parents count."""
    return account is None or call(["/bin/sh", "-c", 'test -x "$1"', "sh", folder], account).returncode == 0


def private_folder(account: Account, *parents: str) -> Path:
    """A new folder of the account's own (mode 0700) in the first parent that will do."""
    for parent in parents:
        if os.access(parent, os.W_OK) and reaches(account, Path(parent)):
            folder = Path(tempfile.mkdtemp(prefix="dcr-", dir=parent))
            hand_over(folder, account)
            return folder
    raise EmbeddedError(f"None of {', '.join(parents)} can be written to; set TMPDIR.")


def still_ours(known: str | None, account: Account) -> Path | None:
    """The folder if it exists and belongs to the account; a temporary folder may have been swept away, or taken."""
    owner = account.pw_uid if account else os.geteuid()
    return Path(known) if known and Path(known).is_dir() and Path(known).stat().st_uid == owner else None


def hand_over(path: Path, account: Account) -> None:
    """Give the path to the account."""
    if account:
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def listens(path: Path) -> bool:
    """Whether a server listens on the unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
