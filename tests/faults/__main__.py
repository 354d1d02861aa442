"""Writes the table of the faults into docs/GUARANTEES.md, from the tests that make them happen."""

import re

from tests.processes import ROOT

PAGE = ROOT / "docs" / "GUARANTEES.md"
FAULT = re.compile(r'^@pytest\.mark\.fault\("(.+)"\)\n(?:@.*\n|    .*\n|\).*\n|\].*\n)*def (test_\w+)', re.MULTILINE)
HEAD = "| fault | shown by |\n|---|---|\n"


def table():
    """One line per fault."""
    found = [each for path in sorted((ROOT / "tests").rglob("test_*.py")) for each in FAULT.findall(path.read_text())]
    return "".join(f"| {what} | `{test}` |\n" for what, test in found)


def written(page):
    """The page with the table of now."""
    before, after = page.split(HEAD)
    return before + HEAD + table() + after[after.index("\n## ") :]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
