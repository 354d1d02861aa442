"""`make mutants`: remove each guard in a copy of the code, and check that its tests fail.

Needs the servers that `make mutants` starts. Exits with 1 and names each guard whose removal no test detected.
With `--table` it only writes docs/internals/GUARDS.md: every guard, where it stands, and what its mutant is.
"""

import argparse
import ast
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
from typing import NamedTuple

from tests.mutants.guards import GUARDS, MODEL_TESTS, Guard
from tests.mutants.marks import Mark, iter_marks, mutate, normalize
from tests.mutants.table import PAGE, page
from tests.processes import ROOT

PASSED, FAILED = 0, 1  # pytest's exit statuses
# Seconds for one guard's tests, some of which may hang without the guard; and for all tests, with every guard in place.
GUARD_TIMEOUT, BASELINE_TIMEOUT = 240, 600
# Guards that are tried at once, each in a copy of the code with a database of its own.
LANES = 2


class Trial(NamedTuple):
    """One guard to remove, and the tests that must fail without it."""

    name: str
    guard: Guard
    mark: Mark
    tests: tuple[str, ...]


class Result(NamedTuple):
    """The result of a trial."""

    verdict: str
    """`killed`, `SURVIVED`, or what went wrong."""
    test: str = ""
    """The first test that failed."""


def iter_trials() -> Iterator[Trial]:
    """Yield every guard with its own tests, then those that the model test must detect as well."""
    marks = {mark.name: mark for mark in iter_marks()}
    for guard in GUARDS:
        yield Trial(guard.name, guard, marks[guard.name], guard.tests)
    for guard in GUARDS:
        if guard.model:
            yield Trial(f"model: {guard.name}", guard, marks[guard.name], MODEL_TESTS)


def copy_code(folder: Path) -> Path:
    """Return a copy of the files that git does not ignore, with uncommitted changes.

    Files with guards are written as `ast.unparse` has them, as the mutants are: only the mutation tells the two apart.
    """
    names = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True).split("\n")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for name in {mark.path for mark in iter_marks()}:
        (folder / name).write_text(normalize(ast.parse((ROOT / name).read_text())))
    return folder


def run_pytest(folder: Path, *arguments: str, timeout: float = GUARD_TIMEOUT) -> subprocess.CompletedProcess[str]:
    """Run tests of the copy; the test database, which has the copy's name, is made once and kept."""
    options = ["-q", "--reuse-db", "-m", "not live", "-p", "no:cacheprovider", "-p", "no:randomly", "--timeout", "60"]
    # The folder of a unix socket, if there is one, stands before the database's name.
    server = os.environ["DATABASE_URL"].partition("?")[0].rpartition("/")[0]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "DATABASE_URL": f"{server}/{folder.name}"}
    command = [sys.executable, "-m", "pytest", *options, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)


def run_baseline(folder: Path, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run tests of a new copy as it is, and create its test database."""
    return run_pytest(folder, "--create-db", *tests, timeout=BASELINE_TIMEOUT)


def run_mutant(trial: Trial, folder: Path) -> Result:
    """Remove the guard, run its tests, and restore it."""
    path = folder / trial.mark.path
    baseline = path.read_text()
    path.write_text(mutate((ROOT / trial.mark.path).read_text(), trial.mark.line, trial.guard.transformer))
    try:
        done = run_pytest(folder, "-x", *trial.tests)
    except subprocess.TimeoutExpired:
        return Result("killed", "(hung)")
    finally:
        path.write_text(baseline)
    if done.returncode == FAILED:
        red = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return Result("killed", red[0].split(" - ")[0].rpartition("::")[2] if red else "?")
    if done.returncode == PASSED:
        return Result("SURVIVED")
    return Result(f"broken: {done.stdout[-500:]}{done.stderr[-500:]}")


@contextmanager
def lanes(trials: Sequence[Trial]) -> Iterator[Queue[Path]]:
    """Yield the copies. Raise SystemExit when a test fails with every guard in place."""
    tests = list(dict.fromkeys(test for trial in trials for test in trial.tests))
    with tempfile.TemporaryDirectory(prefix="reaper-mutants-") as temporary, ThreadPoolExecutor(LANES) as pool:
        copies = [copy_code(Path(temporary) / f"lane{number}") for number in range(min(LANES, len(trials)))]
        # Together they run all the tests, and each creates its database.
        shares = [tests[number :: len(copies)] or tests[:1] for number in range(len(copies))]
        for done in pool.map(run_baseline, copies, shares):
            if done.returncode != PASSED:
                raise SystemExit(f"The tests fail without a mutant:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
        free: Queue[Path] = Queue()
        for copy in copies:
            free.put(copy)
        yield free


def is_killed(trial: Trial, free: Queue[Path]) -> bool:
    """Try one guard in a copy that is free, print the result, and return whether a test failed."""
    folder = free.get()
    try:
        begin = time.monotonic()
        result = run_mutant(trial, folder)
        print(f"{trial.name:45} {result.verdict:10} {time.monotonic() - begin:5.1f} s  {result.test}", flush=True)
    finally:
        free.put(folder)
    return result.verdict == "killed"


def try_guards(words: Sequence[str]) -> int:
    """Try every guard, or those whose names contain one of the words; return the exit status."""
    trials = [trial for trial in iter_trials() if not words or any(word in trial.name for word in words)]
    if not trials:
        raise SystemExit(f"No guard has {' or '.join(words)} in its name.")
    with lanes(trials) as free, ThreadPoolExecutor(LANES) as pool:
        results = list(pool.map(lambda trial: is_killed(trial, free), trials))
    alive = [trial.name for trial, killed in zip(trials, results, strict=True) if not killed]
    print(f"mutants: {len(trials)}, killed {len(trials) - len(alive)}, not killed: {', '.join(alive) or 'none'}")
    return int(bool(alive))


def main(arguments: Sequence[str]) -> int:
    """Carry out the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("words", nargs="*", help="only the guards with one of these in their names")
    parser.add_argument("--table", action="store_true", help=f"only write {PAGE.relative_to(ROOT)}")
    options = parser.parse_args(arguments)
    if options.table:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page())
        return 0
    return try_guards(options.words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
