"""Which indexes a model needs for a sweep to cost the same however large its table is. No database is asked."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from django.db.models import Model, Q


class RequiredIndex(NamedTuple):
    """An index that a sweep reads by: what for, and as a line of Python for the model's Meta.indexes."""

    purpose: str
    fields: list[str]
    condition: Q
    line: str


def find_missing(
    model: type[Model], status_field: str, since: Mapping[Any, str | None], known: Sequence[Any]
) -> Iterator[RequiredIndex]:
    """Yield the indexes that the model has not, nor one that serves as well.

    `since` names the column by which the runs of each unfinished status are read, oldest first; `known` are all
    statuses, in the order in which the query says them.
    """
    there = [(index.condition, index.fields[0].removeprefix("-")) for index in model._meta.indexes if index.fields]
    # An index on the status, whatever it is, finds the runs of one; but none of those that are not any of these.
    on_status = (None, status_field) in there or model._meta.get_field(status_field).db_index  # type: ignore[union-attr]
    for status, column in since.items():
        index = for_status(model, status_field, raw_value(status), column)
        if not on_status and (index.condition, index.fields[0]) not in there:
            yield index
    index = for_unmapped(model, status_field, known)
    if (index.condition, index.fields[0]) not in there:
        yield index


def for_status(model: type[Model], status_field: str, status: Any, since: str | None) -> RequiredIndex:
    """Return the index for the runs of one status."""
    said = f"models.Q({status_field}={status!r})"
    columns = [column for column in (since, pk_name(model)) if column]
    return make_required(model, str(status), f"runs that are {status!r}", columns, Q(**{status_field: status}), said)


def for_unmapped(model: type[Model], status_field: str, known: Sequence[Any]) -> RequiredIndex:
    """Return the index, which holds nothing as long as all is well, for the rows whose status nobody knows."""
    values = [raw_value(status) for status in known]
    condition, said = ~Q(**{f"{status_field}__in": values}), f"~models.Q({status_field}__in={values!r})"
    if model._meta.get_field(status_field).null:
        condition, said = condition | Q(**{status_field: None}), f"{said} | models.Q({status_field}=None)"
    return make_required(model, "unknown", "rows of an unknown status", [pk_name(model)], condition, said)


def make_required(
    model: type[Model], word: str, purpose: str, fields: list[str], condition: Q, said: str
) -> RequiredIndex:
    """Return the index with its line; its name is of a length that every database takes."""
    name = "_".join(re.sub(r"\W", "", part.lower())[:14] for part in (model._meta.model_name or "", word))
    return RequiredIndex(
        purpose, fields, condition, f"models.Index(fields={fields!r}, condition={said}, name={name!r}),"
    )


def raw_value(status: Any) -> Any:
    """Return a status as the column holds it: a host may name a member of its choices, or a number."""
    return getattr(status, "value", status)


def pk_name(model: type[Model]) -> str:
    """Return the name of the primary key."""
    return model._meta.pk.name
