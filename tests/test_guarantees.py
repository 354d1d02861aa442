"""docs/GUARANTEES.md and docs/internals/: every guarantee has its promises, and every promise names existing tests."""

import re

import pytest

from tests.faults.__main__ import table, written
from tests.processes import ROOT

DOCS = ROOT / "docs"
GUARANTEE = re.compile(r"^\d\. \*\*(.*?)[.,]\*\*", re.MULTILINE)
SECTION = re.compile(r"^## (.*?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
PROMISE = re.compile(r"^\*\*(\d+)\.\*\* (.*?)(?=^\*\*\d+\.|\Z)", re.MULTILINE | re.DOTALL)
NAMED_TEST = re.compile(r"^\* `(test_\w+)`$", re.MULTILINE)

GUARANTEES = GUARANTEE.findall((DOCS / "GUARANTEES.md").read_text())
# The headings, and for each promise below them, by its number, the tests that show it.
SECTIONS = dict(SECTION.findall((DOCS / "internals" / "GUARANTEES-TESTS.md").read_text()))
PROMISES = {
    int(number): NAMED_TEST.findall(text) for section in SECTIONS.values() for number, text in PROMISE.findall(section)
}
EXISTING_TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^ *def (test_\w+)", path.read_text(), flags=re.MULTILINE)
}


def test_each_of_the_eight_guarantees_has_promises():
    assert len(GUARANTEES) == 8
    assert list(SECTIONS) == GUARANTEES
    assert all(PROMISE.search(section) for section in SECTIONS.values())


def test_eighteen_promises_are_listed_once_each():
    numbers = [int(number) for section in SECTIONS.values() for number, _ in PROMISE.findall(section)]
    assert sorted(numbers) == list(range(1, 19))


@pytest.mark.parametrize("number", range(1, 19))
def test_each_promise_names_existing_tests(number):
    assert PROMISES[number]
    assert set(PROMISES[number]) <= EXISTING_TESTS


def test_table_of_faults_matches_the_marked_tests():
    page = (DOCS / "internals" / "FAULTS.md").read_text()
    assert written(page) == page, "renew it: python -m tests.faults"
    marked = sum(path.read_text().count("\n@pytest.mark.fault(") for path in (ROOT / "tests").rglob("test_*.py"))
    assert table().count("\n") == marked >= 19
