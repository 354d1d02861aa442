"""Finds the guards in the code by their marks: `# guard: NAME` above a statement, or above a line inside of one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.mutants.transformers import Marked, Transformer
from tests.processes import ROOT

PACKAGES = ("reaper", "apps", "config")
MARK = re.compile(r"^ *# guard: (.+?) *$")


class Mark(NamedTuple):
    """Where a mark stands."""

    name: str
    path: str
    """Relative to the repository's root."""
    line: int
    """The first line of code below the mark, from 1."""


def iter_marks(root: Path = ROOT) -> Iterator[Mark]:
    """Yield every mark in the code, by file and line."""
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            lines = path.read_text().splitlines()
            for index, line in enumerate(lines):
                if found := MARK.match(line):
                    yield Mark(found[1], str(path.relative_to(root)), first_code_line(lines, index))


def first_code_line(lines: list[str], index: int) -> int:
    """Return the number, from 1, of the first line from `index` on that is neither empty nor a comment."""
    return next(number for number, line in enumerate(lines[index:], index + 1) if not re.match(r" *(#|$)", line))


def locate(source: str, line: int) -> Marked:
    """Return the statement that begins on the line, or else the smallest one around it."""
    module = ast.parse(source)
    around = [node for node in ast.walk(module) if isinstance(node, ast.stmt) and first_line(node) <= line <= end(node)]
    if beginning := [node for node in around if first_line(node) == line]:
        return Marked(module, max(beginning, key=end), line)
    return Marked(module, min(around, key=lambda node: end(node) - first_line(node)), line)


def first_line(node: ast.stmt) -> int:
    """Return the first line of a statement, its decorators included."""
    return min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])


def end(node: ast.stmt) -> int:
    """Return the last line of a statement."""
    return node.end_lineno or node.lineno


def enclosing_function(mark: Mark) -> str:
    """Return the dotted name of the function or class that the mark stands in, for people."""
    module = ast.parse((ROOT / mark.path).read_text())
    around = [
        node
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and first_line(node) <= mark.line <= end(node)
    ]
    return ".".join(node.name for node in sorted(around, key=first_line))


def mutate(source: str, line: int, transformer: Transformer) -> str:
    """Return the source without the guard on the line. Raises LookupError when the transformer finds nothing there."""
    marked = locate(source, line)
    before = ast.dump(marked.module)
    transformer.apply(marked)
    if ast.dump(marked.module) == before:
        raise LookupError("the transformer changed nothing")
    return normalize(marked.module)


def normalize(module: ast.Module) -> str:
    """Return the code of the module. Raises SyntaxError when it does not compile."""
    code = ast.unparse(ast.fix_missing_locations(module)) + "\n"
    compile(code, "mutant", "exec")
    return code
