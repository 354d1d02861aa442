"""The docstrings below the fields of a class, at run time: forms, commands and docs take their sentences from there."""

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise


@cache
def field_docs(cls: type) -> dict[str, str]:
    """Return each field's docstring on one line, by the field's name; fields without one are left out.

    The docstring is the string literal right below an annotated field or an assignment in the class's own body. Raises
    OSError where the source of the class was not installed.
    """
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    docs: dict[str, str] = {}
    for field, below in pairwise(body):
        targets: list[ast.expr] = []
        if isinstance(field, ast.Assign):
            targets = field.targets
        elif isinstance(field, ast.AnnAssign):
            targets = [field.target]
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            docs.update({each.id: " ".join(str(below.value.value).split()) for each in targets if isinstance(each, ast.Name)})
    return docs
