"""How long other queues take to rescue stalled jobs in their own way, on the same server."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = {"procrastinate": "3.10.0", "chancy": "0.26.0"}
FOLDER = ROOT / "build" / "peers"


def python(peer: str) -> Path:
    """Return the interpreter of an environment of its own that has it. Raises CalledProcessError without an index."""
    named = f"{peer}=={VERSIONS[peer]}"
    venv, done = FOLDER / peer, FOLDER / named
    program = venv / "bin" / "python"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        subprocess.run([program, "-m", "pip", "install", "-qq", named, "psycopg[binary]"], check=True)
        done.touch()
    return program


def rescue(peer: str, dsn: str, jobs: int) -> dict[str, float]:
    """Return the seconds of its ways to end so many stalled jobs, by name: `retry`, and `fail` where it has that."""
    words = [python(peer), Path(__file__).with_name(f"{peer}_rescue.py"), dsn, str(jobs)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "PYTHON"))}
    return json.loads(subprocess.check_output(words, env=environment, text=True, stderr=subprocess.DEVNULL))
