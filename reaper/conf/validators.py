"""One value of the settings: what it has to be, and the sentence that says why it is not. Pure."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from types import UnionType
from typing import Any, get_args

from reaper.core.formatting import OFF, parse_duration_text
from reaper.core.policy import Action, Mode
from reaper.exceptions import InvalidValue

# A date moved by this much is still a date, in Python and in every database.
LONGEST = timedelta(days=36_525)
# What a database's integer holds.
MOST = 2**31 - 1


def parse_duration(value: Any) -> timedelta:
    """Return a timedelta above zero; numbers are seconds. Raises InvalidValue."""
    hint = "Give a timedelta above zero, or a number of seconds."
    if isinstance(value, bool) or not isinstance(value, timedelta | int | float):
        raise InvalidValue("E005", f"is {value!r}, which is no duration", hint)
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidValue("E007", f"is {value}, which is no finite number", hint)
    try:
        length = value if isinstance(value, timedelta) else timedelta(seconds=max(value, 0))
    except OverflowError:
        length = timedelta.max
    if length <= timedelta(0):
        raise InvalidValue("E006", f"is {value}, which is not above zero", hint)
    if length > LONGEST:
        raise InvalidValue("E008", "is longer than a hundred years", hint)
    return length


def parse_durations(value: Any) -> tuple[timedelta, ...]:
    """Return a tuple of durations; it may be empty. Raises InvalidValue."""
    if not isinstance(value, list | tuple):
        raise InvalidValue(
            "E005", f"is {value!r}, which is no list", "Give a list of timedeltas or of numbers of seconds."
        )
    try:
        return tuple(parse_duration(each) for each in value)
    except InvalidValue as wrong:
        raise InvalidValue(wrong.number, f"holds a value that {wrong.problem}", wrong.hint) from wrong


def parse_count(value: Any, least: int = 0) -> int:
    """Return a whole number that is not below the least. Raises InvalidValue."""
    hint = f"Give a whole number, {least} or more."
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidValue("E007", f"is {value}, which is no finite number", hint)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidValue("E005", f"is {value!r}, which is no whole number", hint)
    if value < least:
        raise InvalidValue("E006", f"is {value}, which is below {least}", hint)
    if value > MOST:
        raise InvalidValue("E008", f"is larger than {MOST}", hint)
    return value


def parse_choice(value: Any, choices: Sequence[str], number: str) -> str:
    """Return the one of the choices that the value names. Raises InvalidValue."""
    if not (isinstance(value, str) and value in choices):
        named = " or ".join(f'"{each}"' for each in choices)
        raise InvalidValue(number, f"is {value!r}, which is none of its values", f"Use {named}.")
    return choices[choices.index(value)]


def parse_text(value: Any) -> str:
    """Return a text that is not empty. Raises InvalidValue."""
    if not (isinstance(value, str) and value):
        raise InvalidValue("E005", f"is {value!r}, which is no text", "Give a text that is not empty.")
    return value


def parse_dict(value: Any) -> Mapping[str, Any]:
    """Return a dict. Raises InvalidValue."""
    if not isinstance(value, Mapping):
        raise InvalidValue("E003", f"is a {type(value).__name__} and no dict", "Make it a dict.")
    return value


def parse_paths(value: Any) -> Sequence[str]:
    """Return a list of texts that is not empty. Raises InvalidValue."""
    if not (isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)):
        raise InvalidValue("E012", "is no list of texts", 'Write ["shop.reaping.Orders"].')
    if not value:
        raise InvalidValue("E011", "names no adapter, so no run is watched", 'Write ["shop.reaping.Orders"].')
    return value


PARSERS: Mapping[Any, Callable[[Any], Any]] = {
    timedelta: parse_duration,
    Sequence[timedelta]: parse_durations,
    int: parse_count,
    str: parse_text,
    Action: partial(parse_choice, choices=(Action.FAIL, Action.REQUEUE), number="E009"),
    Mode: partial(parse_choice, choices=tuple(Mode), number="E009"),
}


def parser_for(annotation: Any) -> Callable[[Any], Any]:
    """Return what makes a value into one of the annotated type. Raises KeyError for a type that no setting has yet."""
    if isinstance(annotation, UnionType):
        (inner,) = (each for each in get_args(annotation) if each is not type(None))
        coerce = PARSERS[inner]
        return lambda value: None if value is None else coerce(value)
    return PARSERS[annotation]


def from_text(annotation: Any, text: str) -> Any:
    """Return what a person wrote as a value that the annotation's coercion takes, or as it is where it makes no sense.

    Durations are "90", "90s", "1h 30m" or "2d", lists of them have commas, "off" is None.
    """
    text = text.strip()
    if isinstance(annotation, UnionType):
        if text.lower() == OFF:
            return None
        (annotation,) = (each for each in get_args(annotation) if each is not type(None))
    if annotation is timedelta:
        return duration_or_text(text)
    if annotation == Sequence[timedelta]:
        return [duration_or_text(each) for each in text.split(",")] if text.lower() != OFF else []
    if annotation is int:
        return int(text) if re.fullmatch(r"-?[0-9]{1,15}", text) else text
    return text.lower()


def duration_or_text(text: str) -> timedelta | str:
    """Return what a person wrote as a duration; as it is where it is none, for `parse_duration` to refuse."""
    duration = parse_duration_text(text)
    return text.strip() if duration is None else duration
