"""How a guard is removed: each transformer changes the statement below a guard's mark, and nothing else.

A transformer is a function of a `Marked` statement that changes its syntax tree in place and raises `LookupError` when
it does not find what it is to change. Its parameters name small parts of the statement (an operand's identifier, a
keyword), never a copy of it, so that code can be moved and reformatted without touching the table of guards.
"""

import ast
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

Node = TypeVar("Node", bound=ast.AST)
Found = TypeVar("Found")


class Marked(NamedTuple):
    """The statement that a mark stands above, or in."""

    module: ast.Module
    """The whole file."""
    statement: ast.stmt
    line: int
    """The first line of code after the mark: tells the lines of a longer statement apart."""


class Transformer(NamedTuple):
    """What is done to a marked statement, and how to say it in a table."""

    description: str
    apply: Callable[[Marked], None]


# --- conditions -------------------------------------------------------------------------------------------------------


def condition(value: bool) -> Transformer:
    """The condition of the `if` or `while` is always `value`."""

    def apply(marked: Marked) -> None:
        if not isinstance(marked.statement, ast.If | ast.While):
            raise LookupError("no `if` or `while`")
        marked.statement.test = ast.Constant(value)

    return Transformer(f"the condition is always {str(value).lower()}", apply)


never = condition(False)
always = condition(True)


def drop_operand(name: str) -> Transformer:
    """The one operand of an `and` or `or` that names this identifier is dropped."""

    def apply(marked: Marked) -> None:
        found = [
            (node, operand)
            for node in nodes(marked.statement, ast.BoolOp)
            for operand in node.values
            if mentions(operand, name) and not isinstance(operand, ast.BoolOp)
        ]
        operation, operand = one(found, f"an operand with {name}")
        operation.values.remove(operand)
        if len(operation.values) == 1:
            replace(marked.module, operation, operation.values[0])

    return Transformer(f"the operand with `{name}` is dropped", apply)


def drop_filter(name: str) -> Transformer:
    """The `if` of a comprehension that names this identifier is dropped."""

    def apply(marked: Marked) -> None:
        found = [
            (loop, test)
            for loop in nodes(marked.statement, ast.comprehension)
            for test in loop.ifs
            if mentions(test, name)
        ]
        loop, test = one(found, f"a filter with {name}")
        loop.ifs.remove(test)

    return Transformer(f"the filter with `{name}` is dropped", apply)


def keep_body() -> Transformer:
    """Of `a if condition else b`, `a` is left."""

    def apply(marked: Marked) -> None:
        choice = one(nodes(marked.statement, ast.IfExp), "a conditional expression")
        replace(marked.module, choice, choice.body)

    return Transformer("the value holds without its condition", apply)


# --- comparisons and names --------------------------------------------------------------------------------------------


def drop_element(name: str) -> Transformer:
    """Where two sequences are compared, the element with this identifier is compared no more."""

    def apply(marked: Marked) -> None:
        comparison = one(nodes(marked.statement, ast.Compare), "a comparison")
        left, (right,) = comparison.left, comparison.comparators
        literal = right if isinstance(right, ast.List | ast.Tuple) else left
        if not isinstance(literal, ast.List | ast.Tuple):
            raise LookupError("neither side is a list or a tuple")
        index = literal.elts.index(one([each for each in literal.elts if mentions(each, name)], f"an element {name}"))
        comparison.left, comparison.comparators = sequence_without(left, index), [sequence_without(right, index)]

    return Transformer(f"`{name}` is not compared", apply)


def rename(old: str, new: str) -> Transformer:
    """One name takes the place of another."""

    def apply(marked: Marked) -> None:
        one([node for node in nodes(marked.statement, ast.Name) if node.id == old], old).id = new

    return Transformer(f"`{new}` instead of `{old}`", apply)


# --- calls ------------------------------------------------------------------------------------------------------------


def drop_keyword(keyword: str, *, of: str) -> Transformer:
    """A keyword argument of the function or method `of` is dropped."""

    def apply(marked: Marked) -> None:
        call, argument = keyword_of(marked, keyword, of)
        call.keywords.remove(argument)

    return Transformer(f"`{of}()` without `{keyword}`", apply)


def set_keyword(keyword: str, value: object, *, of: str) -> Transformer:
    """A keyword argument of the function or method `of` has another value."""

    def apply(marked: Marked) -> None:
        _, argument = keyword_of(marked, keyword, of)
        argument.value = ast.Constant(value)

    return Transformer(f"`{of}({keyword}={value})`", apply)


def drop_call(method: str) -> Transformer:
    """A method is not called: what it was called on takes its place."""

    def apply(marked: Marked) -> None:
        call = one([call for call in nodes(marked.statement, ast.Call) if called(call) == method], f"{method}()")
        if not isinstance(call.func, ast.Attribute):
            raise LookupError(f"{method} is no method")
        replace(marked.module, call, call.func.value)

    return Transformer(f"no `{method}()`", apply)


def first_argument(function: str) -> Transformer:
    """A function is not called: its first argument takes its place."""

    def apply(marked: Marked) -> None:
        call = one([call for call in nodes(marked.statement, ast.Call) if called(call) == function], f"{function}()")
        replace(marked.module, call, call.args[0])

    return Transformer(f"the first argument instead of `{function}()`", apply)


def drop_decorator(name: str) -> Transformer:
    """A function loses this decorator."""

    def apply(marked: Marked) -> None:
        decorators: list[ast.expr] = getattr(marked.statement, "decorator_list", [])
        decorators.remove(one([each for each in decorators if mentions(each, name)], f"@{name}"))

    return Transformer(f"no `@{name}`", apply)


# --- statements -------------------------------------------------------------------------------------------------------


def value(expression: str) -> Transformer:
    """What is returned or assigned is this expression."""

    def apply(marked: Marked) -> None:
        if not isinstance(marked.statement, ast.Return | ast.Assign | ast.AnnAssign):
            raise LookupError("nothing is returned or assigned")
        marked.statement.value = ast.parse(expression, mode="eval").body

    return Transformer(f"the value is `{expression}`", apply)


def remove() -> Transformer:
    """The statement is not there."""

    def apply(marked: Marked) -> None:
        replace(marked.module, marked.statement, ast.Pass())

    return Transformer("the statement is removed", apply)


def body(statement: str) -> Transformer:
    """The body of the statement is this one statement."""

    def apply(marked: Marked) -> None:
        if not isinstance(marked.statement, ast.If | ast.For | ast.While | ast.With):
            raise LookupError("the statement has no body")
        marked.statement.body = ast.parse(statement).body

    return Transformer(f"the body is `{statement}`", apply)


def drop_target(target: str) -> Transformer:
    """Of `a, b = x, y`, only the others are assigned."""

    def apply(marked: Marked) -> None:
        statement = marked.statement
        if not isinstance(statement, ast.Assign):
            raise LookupError("nothing is assigned")
        (targets,) = statement.targets
        if ast.unparse(targets) == target:
            replace(marked.module, statement, ast.Pass())
            return
        if not isinstance(targets, ast.Tuple) or not isinstance(statement.value, ast.Tuple):
            raise LookupError("no tuple is assigned")
        index = [ast.unparse(each) for each in targets.elts].index(target)
        del targets.elts[index], statement.value.elts[index]

    return Transformer(f"`{target}` is not assigned", apply)


def hoist_first() -> Transformer:
    """The first statement of the `with` stands in front of it."""

    def apply(marked: Marked) -> None:
        block = marked.statement
        if not isinstance(block, ast.With) or len(block.body) < 2:
            raise LookupError("no `with` of two statements")
        replace(marked.module, block, [block.body[0], ast.With(block.items, block.body[1:])])

    return Transformer("the first statement is outside of the `with`", apply)


def drop_entry() -> Transformer:
    """The dict's entry on the marked line is dropped."""

    def apply(marked: Marked) -> None:
        found = [
            (node, index)
            for node in nodes(marked.statement, ast.Dict)
            for index, key in enumerate(node.keys)
            if key is not None and key.lineno == marked.line
        ]
        entries, index = one(found, "an entry of a dict on the line")
        del entries.keys[index], entries.values[index]

    return Transformer("the entry is dropped", apply)


# --- the syntax tree --------------------------------------------------------------------------------------------------


def nodes(tree: ast.AST, kind: type[Node]) -> Iterator[Node]:
    """Yield the nodes of a kind. Of a compound statement only its head, for its body has marks of its own."""
    children = [tree]
    while children:
        node = children.pop()
        if isinstance(node, kind):
            yield node
        children += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)]


def mentions(tree: ast.AST, name: str) -> bool:
    """Whether the tree has a name, an attribute or a keyword argument of this name."""
    return any(
        name in (getattr(node, "id", None), getattr(node, "attr", None), getattr(node, "arg", None))
        for node in ast.walk(tree)
    )


def called(call: ast.Call) -> str:
    """Return the name of the function or the method that is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def keyword_of(marked: Marked, keyword: str, function: str) -> tuple[ast.Call, ast.keyword]:
    """Return the one call of the function that has the keyword argument, and the argument."""
    found = [
        (call, argument)
        for call in nodes(marked.statement, ast.Call)
        for argument in call.keywords
        if called(call) == function and argument.arg == keyword
    ]
    return one(found, f"{function}({keyword}=…)")


def sequence_without(expression: ast.expr, index: int) -> ast.expr:
    """Return the sequence without its element at the index."""
    if isinstance(expression, ast.List | ast.Tuple):
        return ast.List([*expression.elts[:index], *expression.elts[index + 1 :]], ast.Load())
    text = ast.unparse(expression)
    return ast.parse(f"[*{text}[:{index}], *{text}[{index + 1}:]]", mode="eval").body


def one(found: Iterable[Found], what: str) -> Found:
    """Return the only one. Raises LookupError when there is none or there are several."""
    found = list(found)
    if len(found) != 1:
        raise LookupError(f"{what}: found {len(found)} times")
    return found[0]


def replace(module: ast.Module, old: ast.AST, new: ast.AST | list[ast.stmt]) -> None:
    """Put an expression, or one or several statements, in the place of a node of the module."""

    class Replacer(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> Any:
            return new if node is old else self.generic_visit(node)

    Replacer().visit(module)
