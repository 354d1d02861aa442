"""The page of the guards, made from the marks in the code and the table of their transformers."""

from tests.mutants.guards import GUARDS, MODEL_TESTS
from tests.mutants.marks import enclosing_function, iter_marks
from tests.processes import ROOT

PAGE = ROOT / "docs" / "internals" / "GUARDS.md"
HEAD = """# Guards

A guard is a statement that protects a run from a wrong write. In the code a comment above it, `# guard: NAME`, marks
each. `make mutants` (in CI) takes each of these guards away in a copy of the code and runs the tests that must fail
without it. `python -m tests.mutants --table` writes this page; a test checks that it is current. A new guard gets a
mark and a row in `tests/mutants/guards.py`.
"""


def page() -> str:
    """Return the page as it should be now."""
    marks = {mark.name: mark for mark in iter_marks()}
    rows = ["| guard | stands in | mutant | tests |", "|---|---|---|---|"]
    for guard in GUARDS:
        mark = marks[guard.name]
        place = f"`{mark.path}`, `{enclosing_function(mark)}`"
        tests = [*guard.tests, *(MODEL_TESTS if guard.model else ())]
        rows.append(
            f"| {guard.name} | {place} | {guard.transformer.description} | {', '.join(map(short_name, tests))} |"
        )
    return f"{HEAD}\n" + "\n".join(rows) + "\n"


def short_name(path: str) -> str:
    """Return a test file's name as the page has it."""
    return f"`{path.removeprefix('tests/')}`"
