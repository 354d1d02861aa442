"""`make mutants`: takes each guard away in a copy of the code, and demands that its tests turn red.

Needs the servers that `make mutants` starts. Exits with 1 and names each guard whose loss no test noticed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

from tests.mutants.guards import GUARDS, Guard

ROOT = Path(__file__).resolve().parents[2]
PASSED, FAILED = 0, 1
# Seconds for one run of the tests; without a guard some may hang. All of them, as they are, take longer.
PATIENCE, PATIENCE_WITH_ALL = 240, 600
# Guards that are tried at once, each in a copy with a database of its own.
LANES = 2


def pytest(folder: Path, *words: str, patience: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """Run tests of the copy; the test database, which has the copy's name, is made once and kept."""
    options = ["-q", "--reuse-db", "-m", "not live", "-p", "no:cacheprovider", "-p", "no:randomly", "--timeout", "60"]
    # The folder of a unix socket, if there is one, stands before the database's name.
    server = os.environ["DATABASE_URL"].partition("?")[0].rpartition("/")[0]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "DATABASE_URL": f"{server}/{folder.name}"}
    command = [sys.executable, "-m", "pytest", *options, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=patience)


def first(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run tests of a new copy as it is."""
    return pytest(folder, "--create-db", *words, patience=PATIENCE_WITH_ALL)


def copy_of_the_code(folder: Path) -> Path:
    """Return a copy of what git knows, with the changes that are not committed."""
    names = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True).split("\n")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def without(guard: Guard, folder: Path) -> tuple[str, str]:
    """Take the guard away, run its tests, and put it back; return `killed` or what else happened, and by which test."""
    path = folder / guard.path
    before = path.read_text()
    if before.count(guard.old) != 1:
        return f"stands {before.count(guard.old)} times in {guard.path}", ""
    path.write_text(before.replace(guard.old, guard.new))
    try:
        done = pytest(folder, "-x", *guard.tests)
    except subprocess.TimeoutExpired:
        return "killed", "(hung)"
    finally:
        path.write_text(before)
    if done.returncode == FAILED:
        red = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return "killed", red[0].split(" - ")[0].rpartition("::")[2] if red else "?"
    return ("SURVIVED", "") if done.returncode == PASSED else (f"broken: {done.stdout[-500:]}{done.stderr[-500:]}", "")


@contextmanager
def lanes(guards: Sequence[Guard]) -> Iterator[Queue[Path]]:
    """Yield the copies. Raises SystemExit when the tests are red as it is."""
    tests = list(dict.fromkeys(test for guard in guards for test in guard.tests))
    with tempfile.TemporaryDirectory(prefix="reaper-mutants-") as temporary, ThreadPoolExecutor(LANES) as pool:
        copies = [copy_of_the_code(Path(temporary) / f"lane{number}") for number in range(min(LANES, len(guards)))]
        # Between them they try all the tests, and each makes its database.
        asked = [tests[number :: len(copies)] or tests[:1] for number in range(len(copies))]
        for done in pool.map(lambda copy, files: first(copy, *files), copies, asked):
            if done.returncode != PASSED:
                raise SystemExit(f"The tests are red already:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
        free: Queue[Path] = Queue()
        for copy in copies:
            free.put(copy)
        yield free


def tried(guard: Guard, free: Queue[Path]) -> bool:
    """Try one guard in a copy that is free, print what became of it, and return whether a test noticed."""
    folder = free.get()
    try:
        begin = time.monotonic()
        fate, by = without(guard, folder)
        print(f"{guard.name:45} {fate:10} {time.monotonic() - begin:5.1f} s  {by}", flush=True)
    finally:
        free.put(folder)
    return fate == "killed"


def main(chosen: Sequence[str]) -> int:
    """Try every guard, or those whose names contain one of the words; print a table; return the exit status."""
    guards = [guard for guard in GUARDS if not chosen or any(word in guard.name for word in chosen)]
    with lanes(guards) as free, ThreadPoolExecutor(LANES) as pool:
        fates = list(pool.map(lambda guard: tried(guard, free), guards))
    alive = [guard.name for guard, killed in zip(guards, fates, strict=True) if not killed]
    print(f"mutants: {len(guards)}, killed {len(guards) - len(alive)}, not killed: {', '.join(alive) or 'none'}")
    return int(bool(alive))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
