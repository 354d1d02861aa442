"""Facts and evidence as JSON, for the ledger and for `--json`: times in ISO 8601, durations in seconds. Pure."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from types import NoneType, UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from reaper.core.facts import Evidence, History, Phase, RunFacts

Data = TypeVar("Data", RunFacts, Evidence, History)


def to_dict(data: RunFacts | Evidence | History) -> dict[str, Any]:
    """Return all fields, by name, as values that JSON knows."""
    # Not by dataclasses.asdict(), whose deep copies take longer than everything else that is done for a run.
    return {name: to_plain(getattr(data, name)) for name in data.__dataclass_fields__}


def to_compact(data: RunFacts | Evidence) -> dict[str, Any]:
    """Return the fields that differ from their defaults: half the size, and read back the same."""
    values = ((name, getattr(data, name), default) for name, default in DEFAULTS[type(data)])
    return {name: to_plain(value) for name, value, default in values if value is not default and value != default}


def to_json(data: RunFacts | Evidence) -> str:
    """Return `to_compact` as a JSON text."""
    return ENCODER.encode(to_compact(data))


def to_plain(value: Any) -> Any:
    """Return a value as one that JSON knows."""
    if type(value) in (str, bool, int, float, NoneType):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, tuple | list):
        return [to_plain(each) for each in value]
    return to_dict(value) if isinstance(value, History) else str(value)


def facts_from_json(stored: Any) -> RunFacts:
    """Return a run's facts from what `to_compact` made of them. Never raises: see `from_json`."""
    return from_json(RunFacts, stored, kind="", pk="", phase=Phase.UNKNOWN)


def evidence_from_json(stored: Any) -> Evidence:
    """Return the evidence from what `to_compact` made of it. Never raises: see `from_json`."""
    return from_json(Evidence, stored)


def from_json(cls: type[Data], stored: Any, **defaults: Any) -> Data:
    """Return a dataclass from its JSON. What is missing or cannot be read, as of another version, is the default."""
    parsers = PARSERS[cls]
    values = dict(defaults)
    for name, value in stored.items() if isinstance(stored, Mapping) else ():
        try:
            if name in parsers:
                values[name] = parsers[name](value)
        except (TypeError, ValueError, OverflowError):
            continue
    return cls(**values)


def parser_for(hint: Any) -> Callable[[Any], Any]:
    """Return the parser of the annotated type's JSON values. It raises TypeError, ValueError or OverflowError."""
    if isinstance(hint, UnionType):
        (inner,) = (each for each in get_args(hint) if each is not NoneType)
        parse = parser_for(inner)
        return lambda value: None if value is None else parse(value)
    if hint is datetime:
        return datetime.fromisoformat
    if hint is timedelta:
        return lambda value: timedelta(seconds=value)
    if is_dataclass(hint):
        return partial(from_json, cast("type", hint))
    if get_origin(hint) is Sequence:
        return tuple
    return hint if issubclass(hint, Enum) else partial(require_type, hint)


def require_type(cls: type, value: Any) -> Any:
    """Return the value. Raise TypeError unless it is of the class."""
    if not isinstance(value, cls):
        raise TypeError
    return value


DEFAULTS = {cls: [(each.name, each.default) for each in fields(cls)] for cls in (RunFacts, Evidence)}
PARSERS: dict[type, dict[str, Callable[[Any], Any]]] = {
    cls: {name: parser_for(hint) for name, hint in get_type_hints(cls).items()} for cls in (RunFacts, Evidence, History)
}
# Shared, because json.dumps() would create one for every row.
ENCODER = json.JSONEncoder()
