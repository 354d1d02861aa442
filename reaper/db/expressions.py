"""Hundreds of values in one statement, as a single expression: Django takes far longer to compile one per value."""

from collections.abc import Collection, Mapping
from itertools import chain
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db.models import BooleanField, F, Func, TextField, Value


class InValues(Func):
    """The condition that a column has one of the values (SQL's IN), for `filter()`. It never matches NULL."""

    def __init__(self, column: str, values: Collection[Any]) -> None:
        super().__init__(F(column), output_field=BooleanField())
        self.values = values

    def as_sql(self, compiler: Any, connection: Any, **context: Any) -> tuple[str, list[Any]]:  # type: ignore[override]
        """Return the condition and its parameters. Raises EmptyResultSet if there are no values: no row matches."""
        (column,) = self.get_source_expressions()
        prepared = [column.output_field.get_db_prep_value(value, connection) for value in self.values]
        if not prepared:
            raise EmptyResultSet
        sql, params = compiler.compile(column)
        return f"{sql} IN ({', '.join(['%s'] * len(prepared))})", [*params, *prepared]


class CaseByPk(Func):
    """Each row's own text, by its key (SQL's CASE)."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(F("pk"), output_field=TextField())
        self.values = values

    def as_sql(self, compiler: Any, connection: Any, **context: Any) -> tuple[str, list[Any]]:  # type: ignore[override]
        """Return the expression and its parameters."""
        (key,) = self.get_source_expressions()
        sql, params = compiler.compile(key)
        prepared = [(key.output_field.get_db_prep_value(pk, connection), text) for pk, text in self.values.items()]
        return f"CASE {sql}{' WHEN %s THEN %s' * len(prepared)} END", [*params, *chain.from_iterable(prepared)]


def case_by_pk(values: Mapping[str, str]) -> Func | Value:
    """Return the expression that gives each row its own text; a single constant if all have the same."""
    return text_value(next(iter(values.values()))) if len(set(values.values())) == 1 else CaseByPk(values)


def text_value(value: str) -> Value:
    """Return a constant that can be combined with a column of any text type."""
    return Value(value, output_field=TextField())
