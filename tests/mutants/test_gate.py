"""The mutation gate itself: every mark has a row, every row a mark, and every mutant differs from the code."""

import ast
from collections import Counter

import pytest

from tests.mutants import transformers
from tests.mutants.guards import GUARDS, MODEL_TESTS
from tests.mutants.marks import Mark, enclosing_function, first_code_line, iter_marks, locate, mutate, normalize
from tests.mutants.table import PAGE, page
from tests.processes import ROOT

MARKS = {mark.name: mark for mark in iter_marks()}


def test_each_guard_mark_has_a_table_row():
    assert {guard.name for guard in GUARDS} == set(MARKS)


def test_guard_names_are_unique():
    names = Counter([mark.name for mark in iter_marks()]) + Counter([guard.name for guard in GUARDS])
    assert {name: count for name, count in names.items() if count > 2} == {}


def test_gate_keeps_its_number_of_guards():
    assert len(GUARDS) >= 72
    assert sum(guard.model for guard in GUARDS) >= 5


@pytest.mark.parametrize("guard", GUARDS, ids=[guard.name for guard in GUARDS])
def test_mutant_differs_and_compiles(guard):
    mark = MARKS[guard.name]
    source = (ROOT / mark.path).read_text()
    mutant = mutate(source, mark.line, guard.transformer)
    assert ast.dump(ast.parse(mutant)) != ast.dump(ast.parse(normalize(ast.parse(source))))


@pytest.mark.parametrize("guard", GUARDS, ids=[guard.name for guard in GUARDS])
def test_guard_names_test_files_that_exist(guard):
    assert guard.tests
    assert [test for test in (*guard.tests, *MODEL_TESTS) if not (ROOT / test).is_file()] == []


def test_page_of_guards_is_current():
    assert PAGE.read_text() == page(), "write it anew: python -m tests.mutants --table"


def mutated(code, transformer, mark="# guard: it"):
    """The code without the guard below the mark."""
    lines = code.splitlines()
    index = next(number for number, line in enumerate(lines) if line.strip() == mark)
    return mutate(code, first_code_line(lines, index), transformer).strip()


STATEMENTS = {
    "never": ("# guard: it\nif a: b()", transformers.never, "if False:\n    b()"),
    "always": ("# guard: it\nwhile a: b()", transformers.always, "while True:\n    b()"),
    "elif": ("if a: b()\n# guard: it\nelif c: d()", transformers.never, "if a:\n    b()\nelif False:\n    d()"),
    "operand of two": ("# guard: it\nif a and b: c()", transformers.drop_operand("b"), "if a:\n    c()"),
    "operand of three": ("# guard: it\nx = a or b.c or d", transformers.drop_operand("c"), "x = a or d"),
    "filter": ("# guard: it\nx = [a for a in b if c(a)]", transformers.drop_filter("c"), "x = [a for a in b]"),
    "conditional value": ("# guard: it\nx = a if b else c", transformers.keep_body(), "x = a"),
    "compared element": ("# guard: it\nx = a == (b, c)", transformers.drop_element("b"), "x = [*a[:0], *a[1:]] == [c]"),
    "two sequences": ("# guard: it\nx = [1, 2] == [b, c]", transformers.drop_element("c"), "x = [1] == [b]"),
    "another name": ("# guard: it\nx = a > B", transformers.rename("B", "C"), "x = a > C"),
    "keyword": ("# guard: it\na(b=1).c(b=2)", transformers.drop_keyword("b", of="a"), "a().c(b=2)"),
    "keyword's value": ("# guard: it\na(b=True)", transformers.set_keyword("b", False, of="a"), "a(b=False)"),
    "method": ("# guard: it\nx = a.b(c).d()", transformers.drop_call("b"), "x = a.d()"),
    "function": ("# guard: it\nx = min(a, b)", transformers.first_argument("min"), "x = a"),
    "decorator": ("# guard: it\n@a\n@b\ndef c(): d()", transformers.drop_decorator("b"), "@a\ndef c():\n    d()"),
    "value": ("# guard: it\nx = a", transformers.value("None"), "x = None"),
    "statement": ("# guard: it\na()\nb()", transformers.remove(), "pass\nb()"),
    "body": ("# guard: it\nif a: b()", transformers.body("c()"), "if a:\n    c()"),
    "target": ("# guard: it\na, b = c, d", transformers.drop_target("b"), "a, = (c,)"),
    "first of a block": (
        "# guard: it\nwith a:\n    b()\n    c()", transformers.hoist_first(), "b()\nwith a:\n    c()",
    ),
    "entry": ("x = {\n    1: 2,\n    # guard: it\n    3: 4,\n}", transformers.drop_entry(), "x = {1: 2}"),
}  # fmt: skip


@pytest.mark.parametrize("name", STATEMENTS)
def test_transformer_changes_the_marked_statement_only(name):
    code, transformer, expected = STATEMENTS[name]
    assert mutated(code, transformer) == expected


MISSES = {
    "no condition": ("# guard: it\nx = 1", transformers.never),
    "no such operand": ("# guard: it\nif a and b: c()", transformers.drop_operand("d")),
    "two such operands": ("# guard: it\nif a.x and b.x: c()", transformers.drop_operand("x")),
    "operand in the body only": ("# guard: it\nif a:\n    x = b and c", transformers.drop_operand("b")),
    "no such keyword": ("# guard: it\na(b=1)", transformers.drop_keyword("c", of="a")),
    "same value": ("# guard: it\nx = None", transformers.value("None")),
}


@pytest.mark.parametrize("name", MISSES)
def test_transformer_that_finds_nothing_raises(name):
    code, transformer = MISSES[name]
    with pytest.raises(LookupError):
        mutated(code, transformer)


def test_mark_inside_a_statement_means_the_smallest_enclosing_one():
    marked = locate("def f():\n    x = [\n        # guard: it\n        1,\n    ]\n", 4)
    assert isinstance(marked.statement, ast.Assign)


def test_place_of_a_mark_includes_its_class():
    places = {enclosing_function(Mark(mark.name, mark.path, mark.line)) for mark in MARKS.values()}
    assert all(places)
