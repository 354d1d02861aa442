"""Hundreds of values in one statement, each an expression of one piece: of as many parts, Django takes far longer."""

from collections.abc import Collection, Mapping
from itertools import chain
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db.models import BooleanField, F, Func, TextField, Value


class InValues(Func):
    """The condition that a column has one of these values: an IN, for `filter()`. NULL is none of them."""

    def __init__(self, column: str, values: Collection[Any]) -> None:
        super().__init__(F(column), output_field=BooleanField())
        self.values = values

    def as_sql(self, compiler: Any, connection: Any, **context: Any) -> tuple[str, list[Any]]:  # type: ignore[override]
        """Return the condition and its parameters. Raises EmptyResultSet when there is no value: no row has it."""
        (column,) = self.get_source_expressions()
        prepared = [column.output_field.get_db_prep_value(each, connection) for each in self.values]
        if not prepared:
            raise EmptyResultSet
        sql, params = compiler.compile(column)
        return f"{sql} IN ({', '.join(['%s'] * len(prepared))})", [*params, *prepared]


class CaseByPk(Func):
    """Each row's own value, by its key: a CASE."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(F("pk"), output_field=TextField())
        self.values = values

    def as_sql(self, compiler: Any, connection: Any, **context: Any) -> tuple[str, list[Any]]:  # type: ignore[override]
        """Return the expression and its parameters."""
        (key,) = self.get_source_expressions()
        sql, params = compiler.compile(key)
        prepared = [(key.output_field.get_db_prep_value(pk, connection), each) for pk, each in self.values.items()]
        return f"CASE {sql}{' WHEN %s THEN %s' * len(prepared)} END", [*params, *chain.from_iterable(prepared)]


def case_by_pk(values: Mapping[str, str]) -> Func | Value:
    """Return the expression that gives each row its own text; one constant where all have the same."""
    return text_value(next(iter(values.values()))) if len(set(values.values())) == 1 else CaseByPk(values)


def text_value(value: str) -> Value:
    """Return a constant that mixes with a column of any text type."""
    return Value(value, output_field=TextField())
