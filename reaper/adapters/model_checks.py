"""System checks of an adapter whose runs are rows of a model. No database is queried."""

from collections.abc import Iterator
from typing import Any

from django.core import checks
from django.core.exceptions import FieldDoesNotExist
from django.db.models import Model

from reaper.adapters import indexes
from reaper.adapters.model_mapping import ModelMapping
from reaper.core.facts import Phase


def check_model_adapter(adapter: ModelMapping) -> list[checks.CheckMessage]:
    """Return one error for a missing model or for each missing column; otherwise a warning for each missing index."""
    try:
        model = adapter.model_class
    except (LookupError, ValueError) as error:
        message = f"{adapter.kind}: there is no model {adapter.model!r}: {error}"
        return [checks.Error(message, 'Name it as "app_label.Model" of an installed app.', id="reaper.E020")]
    return [*_check_columns(adapter, model)] or [*_check_indexes(adapter, model)]


def _check_columns(adapter: ModelMapping, model: type[Model]) -> Iterator[checks.CheckMessage]:
    for name, column in fields_ending_with(adapter, "_field").items():
        try:
            # The parent's status is a column of another model.
            if column and name != "parent_status_field":
                model._meta.get_field(column)
        except FieldDoesNotExist:
            message = f"{adapter.kind}: {name} is {column!r}, which {adapter.model} does not have."
            hint = "Name one of the model's fields, or None where it has no such column."
            yield checks.Error(message, hint, id="reaper.E021")


def _check_indexes(adapter: ModelMapping, model: type[Model]) -> Iterator[checks.CheckMessage]:
    age_columns = {status: adapter._age_column(Phase.QUEUED) for status in adapter.queued_statuses}
    age_columns |= {status: adapter._age_column(Phase.RUNNING) for status in adapter.running_statuses}
    for index in indexes.find_missing(model, adapter.status_field, age_columns, adapter._mapped_statuses()):
        yield checks.Warning(
            f"{adapter.kind}: {adapter.model} has no index for {index.purpose}: every sweep reads the whole table.",
            f"Add to its Meta.indexes: {index.source}",
            id="reaper.W020",
        )


def fields_ending_with(adapter: ModelMapping, suffix: str) -> dict[str, Any]:
    """Return an adapter's attributes whose names end with the suffix, those of its base classes included."""
    return {name: getattr(adapter, name) for name in dir(type(adapter)) if name.endswith(suffix)}
