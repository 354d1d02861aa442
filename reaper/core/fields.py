"""The docstrings below the fields of a class, at run time: forms, commands and docs take their sentences from there."""

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise


@cache
def field_docs(cls: type) -> dict[str, str]:
    """Return each field's docstring on one line, by the field's name; fields without one are left out.

    The docstring is the string literal right below an annotated field or an assignment in the class's own body. Without
    the source of the class, as where only compiled files were installed, there are none.
    """
    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):
        return {}
    (tree,) = ast.parse(textwrap.dedent(source)).body
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    docs: dict[str, str] = {}
    for field, below in pairwise(body):
        names = [each.id for each in assigned(field) if isinstance(each, ast.Name)]
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            docs.update(dict.fromkeys(names, " ".join(str(below.value.value).split())))
    return docs


def assigned(statement: ast.stmt) -> list[ast.expr]:
    """Return what a statement assigns to: `x` of `x = 1` and of `x: int = 1`."""
    if isinstance(statement, ast.Assign):
        return statement.targets
    return [statement.target] if isinstance(statement, ast.AnnAssign) else []
