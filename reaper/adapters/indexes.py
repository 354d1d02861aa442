"""The indexes that a model needs so that a sweep costs the same however large its table is. No database is queried."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from django.db.models import Model, Q


class RequiredIndex(NamedTuple):
    """An index that sweeps read by."""

    purpose: str
    """The rows that it finds, in words."""
    fields: list[str]
    """Its columns."""
    condition: Q
    """The condition that it is partial on."""
    source: str
    """The line of Python to add to the model's `Meta.indexes`."""


def find_missing(
    model: type[Model], status_field: str, age_columns: Mapping[Any, str | None], mapped: Sequence[Any]
) -> Iterator[RequiredIndex]:
    """Yield the indexes that the model lacks, unless another one serves as well.

    `age_columns` names the column by which the runs of each unfinished status are read, oldest first; `mapped` are all
    statuses that the adapter names, in the order of its query.
    """
    existing = [(index.condition, index.fields[0].removeprefix("-")) for index in model._meta.indexes if index.fields]
    # A plain index on the status finds the runs of one status, but not those whose status is none of many.
    status_column = model._meta.get_field(status_field)
    has_status_index = (None, status_field) in existing or status_column.db_index  # type: ignore[union-attr]
    for status, column in age_columns.items():
        index = for_status(model, status_field, raw_value(status), column)
        if not has_status_index and (index.condition, index.fields[0]) not in existing:
            yield index
    index = for_unmapped(model, status_field, mapped)
    if (index.condition, index.fields[0]) not in existing:
        yield index


def for_status(model: type[Model], status_field: str, status: Any, age_column: str | None) -> RequiredIndex:
    """Return the index for the runs of one status."""
    return make_required(
        model,
        name_suffix=str(status),
        purpose=f"runs that are {status!r}",
        fields=[column for column in (age_column, pk_name(model)) if column],
        condition=Q(**{status_field: status}),
        condition_source=f"models.Q({status_field}={status!r})",
    )


def for_unmapped(model: type[Model], status_field: str, mapped: Sequence[Any]) -> RequiredIndex:
    """Return the index for the rows whose status the adapter does not name. It is empty as long as all is well."""
    values = [raw_value(status) for status in mapped]
    condition = ~Q(**{f"{status_field}__in": values})
    condition_source = f"~models.Q({status_field}__in={values!r})"
    if model._meta.get_field(status_field).null:
        condition |= Q(**{status_field: None})
        condition_source += f" | models.Q({status_field}=None)"
    return make_required(
        model,
        name_suffix="unknown",
        purpose="rows of an unknown status",
        fields=[pk_name(model)],
        condition=condition,
        condition_source=condition_source,
    )


def make_required(
    model: type[Model], *, name_suffix: str, purpose: str, fields: list[str], condition: Q, condition_source: str
) -> RequiredIndex:
    """Return the index with its line of source, under a name of at most 29 characters: Oracle and Django take 30."""
    parts = (model._meta.model_name or "", name_suffix)
    name = "_".join(re.sub(r"\W", "", part.lower())[:14] for part in parts)
    source = f"models.Index(fields={fields!r}, condition={condition_source}, name={name!r}),"
    return RequiredIndex(purpose, fields, condition, source)


def raw_value(status: Any) -> Any:
    """Return a status as the column holds it; an adapter may also name a member of its choices."""
    return getattr(status, "value", status)


def pk_name(model: type[Model]) -> str:
    """Return the name of the primary key."""
    return model._meta.pk.name
