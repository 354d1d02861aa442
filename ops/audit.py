"""`audit.py LOCK SBOM`: asks for known holes in what the lock names, and writes its bill of materials.

Exits with 1 when there is one. Where nobody could be asked it says that the audit did not run, and does not pass it off
as one.
"""

import json
import subprocess
import sys
from pathlib import Path


def main(lock: str, sbom: str) -> int:
    """Audit, write, and return the exit status."""
    Path(sbom).parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "cyclonedx_py", "requirements", lock, "--output-format", "JSON", "-o", sbom], check=True
    )
    named = len(json.loads(Path(sbom).read_text())["components"])
    print(f"bill of materials: {named} packages, in {sbom}")
    words = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--format", "json", "-r", lock]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, LookupError):
        print(f"audit: DID NOT RUN: {(done.stderr.strip().splitlines() or ['no answer'])[-1][:300]}")
        return 0
    asked = [each for each in found if "skip_reason" not in each]
    holes = [(each["name"], each["version"], hole["id"]) for each in asked for hole in each["vulns"]]
    if not asked:
        print(f"audit: DID NOT RUN: of none of {len(found)} packages could be asked ({found[0]['skip_reason']})")
        return 0
    for name, version, hole in holes:
        print(f"{name} {version}: {hole}")
    print(f"audit: {len(asked)} of {len(found)} packages asked for, {len(holes)} known holes")
    return int(bool(holes))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
