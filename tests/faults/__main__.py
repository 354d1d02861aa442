"""Write the table of the faults into docs/internals/FAULTS.md, from the tests that cause them."""

import re

from tests.processes import ROOT

PAGE = ROOT / "docs" / "internals" / "FAULTS.md"
FAULT = re.compile(r'^@pytest\.mark\.fault\("(.+)"\)\n(?:@.*\n|    .*\n|\).*\n|\].*\n)*def (test_\w+)', re.MULTILINE)
HEAD = "| fault | shown by |\n|---|---|\n"


def table():
    """Return one line per fault."""
    found = [each for path in sorted((ROOT / "tests").rglob("test_*.py")) for each in FAULT.findall(path.read_text())]
    return "".join(f"| {what} | `{test}` |\n" for what, test in found)


def written(page):
    """Return the page with its table renewed; the table ends the page."""
    return page.partition(HEAD)[0] + HEAD + table()


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
