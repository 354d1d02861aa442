"""docs/GUARANTEES.md names tests that are there, and names them once for each promise."""

import re

import pytest

from tests.faults.__main__ import table, written
from tests.mutants.guards import GUARDS
from tests.processes import ROOT

PAGE = (ROOT / "docs" / "GUARANTEES.md").read_text()
THERE = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^ *def (test_\w+)", path.read_text(), flags=re.MULTILINE)
}


@pytest.mark.parametrize("number", range(1, 19))
def test_each_promise_names_tests_that_are_there(number):
    (promise,) = re.findall(rf"^{number}\. (.*?)(?=^\d+\. |^## )", PAGE, flags=re.MULTILINE | re.DOTALL)
    named = re.findall(r"`(test_\w+)`", promise)
    assert named
    assert set(named) <= THERE


def test_the_table_of_faults_is_that_of_the_tests():
    assert written(PAGE) == PAGE, "write it anew: python -m tests.faults"
    marked = sum(path.read_text().count("\n@pytest.mark.fault(") for path in (ROOT / "tests").rglob("test_*.py"))
    assert table().count("\n") == marked >= 19


def test_the_table_of_guards_is_that_of_the_mutants():
    section = PAGE.partition("## Mutation gate")[2].partition("\n## ")[0]
    assert dict(re.findall(r"^\| (.+) \| `(.+)` \|$", section, flags=re.MULTILINE)) == {
        guard.name: guard.path for guard in GUARDS
    }


@pytest.mark.parametrize("guard", GUARDS, ids=[guard.name for guard in GUARDS])
def test_each_guard_stands_where_the_mutants_look_for_it(guard):
    assert (ROOT / guard.path).read_text().count(guard.old) == 1
    assert guard.new != guard.old
    assert all((ROOT / test).is_file() for test in guard.tests)
