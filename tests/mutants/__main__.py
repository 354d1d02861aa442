"""`make mutants`: takes each guard away in a copy of the code, and demands that its tests turn red.

Needs the servers that `make mutants` starts. Exits with 1 and names each guard whose loss no test noticed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mutants.guards import GUARDS, Guard

ROOT = Path(__file__).resolve().parents[2]
PASSED, FAILED = 0, 1
# Seconds for one run of the tests; without a guard some may hang.
PATIENCE = 240


def pytest(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run tests of the copy; the test database is made once and kept."""
    options = ["-q", "--reuse-db", "-m", "not live", "-p", "no:cacheprovider", "-p", "no:randomly", "--timeout", "60"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", *options, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE)


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


def main(chosen: Sequence[str]) -> int:
    """Try every guard, or those whose names contain one of the words; print a table; return the exit status."""
    guards = [guard for guard in GUARDS if not chosen or any(word in guard.name for word in chosen)]
    with tempfile.TemporaryDirectory(prefix="reaper-mutants-") as temporary:
        folder = copy_of_the_code(Path(temporary))
        whole = pytest(folder, "--create-db", *dict.fromkeys(test for guard in guards for test in guard.tests))
        if whole.returncode != PASSED:
            print(f"The tests are red already:\n{whole.stdout[-3000:]}{whole.stderr[-1000:]}")
            return 1
        alive = []
        for guard in guards:
            begin = time.monotonic()
            fate, by = without(guard, folder)
            print(f"{guard.name:45} {fate:10} {time.monotonic() - begin:5.1f} s  {by}", flush=True)
            if fate != "killed":
                alive.append(guard.name)
    print(f"mutants: {len(guards)}, killed {len(guards) - len(alive)}, not killed: {', '.join(alive) or 'none'}")
    return int(bool(alive))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
