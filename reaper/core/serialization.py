"""Facts and evidence as JSON, for the ledger and for `--json`: times in ISO 8601, durations in seconds. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
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
    return {name: to_plain(value) for name, value in non_defaults(data)}


def to_json(data: RunFacts | Evidence) -> str:
    """Return `to_compact` as a JSON text."""
    return ENCODER.encode(dict(non_defaults(data)))


def facts_from_json(stored: Any) -> RunFacts:
    """Return a run's facts from what `to_compact` made of them. Never raises: see `from_json`."""
    return from_json(RunFacts, stored, kind="", pk="", phase=Phase.UNKNOWN)


def evidence_from_json(stored: Any) -> Evidence:
    """Return the evidence from what `to_compact` made of it. Never raises: see `from_json`."""
    return from_json(Evidence, stored)


def from_json(cls: type[Data], stored: Any, **defaults: Any) -> Data:
    """Return a dataclass from its JSON. What is missing or cannot be read, as of another version, is the default."""
    values = dict(defaults)
    hints = TYPES[cls]
    stored = stored if isinstance(stored, Mapping) else {}
    for name in hints.keys() & stored.keys():
        try:
            values[name] = parse_value(hints[name], stored[name])
        except (TypeError, ValueError, OverflowError):
            continue
    return cls(**values)


def parse_value(hint: Any, value: Any) -> Any:
    """Return one value from its JSON, by its type. Raise TypeError, ValueError or OverflowError if it is not one."""
    hints = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if value is None and NoneType in hints:
        return None
    hint = next(each for each in hints if each is not NoneType)
    if hint is datetime:
        return datetime.fromisoformat(value)
    if hint is timedelta:
        return timedelta(seconds=value)
    if is_dataclass(hint):
        return from_json(cast("type", hint), value)
    if get_origin(hint) is Sequence:
        return tuple(value)
    if issubclass(hint, Enum):
        return hint(value)
    if not isinstance(value, hint):
        raise TypeError
    return value


def to_plain(value: Any) -> Any:
    """Return a value as one that JSON knows."""
    if value is None or type(value) in (str, bool, int, float):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, tuple | list):
        return [to_plain(each) for each in value]
    return to_dict(value) if isinstance(value, History) else str(value)


def non_defaults(data: RunFacts | Evidence) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of the fields that differ from their defaults."""
    for name, default in DEFAULTS[type(data)]:
        value = getattr(data, name)
        if value is not default and value != default:
            yield name, value


DEFAULTS = {cls: [(each.name, each.default) for each in fields(cls)] for cls in (RunFacts, Evidence)}
TYPES: dict[type, dict[str, Any]] = {cls: get_type_hints(cls) for cls in (RunFacts, Evidence, History)}
# One for all: json.dumps() would make one for every row.
ENCODER = json.JSONEncoder(default=to_plain)
