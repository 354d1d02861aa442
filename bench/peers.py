"""What others take for the same: procrastinate's documented way to rescue stalled jobs, on the same server."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSION = "3.10.0"
VENV = ROOT / "build" / "peers"


def python() -> Path:
    """Return the interpreter of an environment of its own that has it. Raises CalledProcessError without an index."""
    program = VENV / "bin" / "python"
    if not (VENV / f"procrastinate-{VERSION}").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        pip = [program, "-m", "pip", "install", "--quiet", f"procrastinate=={VERSION}", "psycopg[binary]"]
        subprocess.run(pip, check=True)
        (VENV / f"procrastinate-{VERSION}").touch()
    return program


def rescue(dsn: str, jobs: int) -> dict[str, float]:
    """Return the seconds of its two ways to end a stalled job, `retry` and `fail`, for so many jobs."""
    words = [python(), Path(__file__).with_name("procrastinate_rescue.py"), dsn, str(jobs)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "PYTHON"))}
    return json.loads(subprocess.check_output(words, env=environment, text=True))
