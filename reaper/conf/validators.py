"""The values of settings: one parser per type, for the settings file, the forms and the command line alike.

Each parser takes a value as Python or as a person writes it ("1h 30m", "off", "3"), returns the value to work with, and
raises InvalidValue with the id of a system check, what is wrong ("expected a duration, got 'soon'") and a hint.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from types import UnionType
from typing import Any, get_args

from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from reaper.core.formatting import OFF, format_value, parse_duration_text
from reaper.core.policy import Action, Mode
from reaper.exceptions import InvalidValue

NOT_A_DICT = "E001"
UNKNOWN_NAME = "E002"
WRONG_TYPE = "E003"
OUT_OF_RANGE = "E004"
NOT_A_CHOICE = "E005"
NO_ADAPTERS = "E006"
ADAPTER_UNUSABLE = "E007"
ADAPTER_UNNAMED = "E008"

MAX_DURATION = timedelta(days=36_525)
"""A date moved by this much is still a date, in Python and in every database."""
MAX_COUNT = 2**31 - 1
"""The largest value of a database's integer column."""
MIN_RETENTION = timedelta(days=1)
"""Budgets and backoffs are counted from the ledger, and its trigger prevents the deletion of rows younger than this."""
MIN_TOKEN_LENGTH = 20
"""Characters. 128 random bits in base 64 are 22."""

Parser = Callable[..., Any]


def parse_duration(value: Any, minimum: timedelta = timedelta(0)) -> timedelta:
    """Return a duration above zero, and not below the minimum; numbers are seconds. Raise InvalidValue."""
    hint = 'Write timedelta(hours=1), a number of seconds, or "1h 30m".'
    if isinstance(value, str):
        value = given if (given := parse_duration_text(value)) is not None else value
    if isinstance(value, bool) or not isinstance(value, timedelta | int | float):
        raise InvalidValue(WRONG_TYPE, f"expected a duration, got {value!r}", hint)
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidValue(OUT_OF_RANGE, f"expected a finite duration, got {value}", hint)
    try:
        duration = value if isinstance(value, timedelta) else timedelta(seconds=max(value, 0))
    except OverflowError:
        duration = timedelta.max
    if duration <= timedelta(0):
        raise InvalidValue(OUT_OF_RANGE, f"expected a duration above zero, got {format_value(value)}", hint)
    if duration > MAX_DURATION:
        raise InvalidValue(OUT_OF_RANGE, "expected a duration of at most a hundred years", hint)
    if duration < minimum:
        least = format_value(minimum)
        problem = f"expected a duration of at least {least}, got {format_value(duration)}"
        raise InvalidValue(OUT_OF_RANGE, problem, f"Use {least} or more.")
    return duration


def parse_durations(value: Any, minimum: timedelta = timedelta(0)) -> tuple[timedelta, ...]:
    """Return a list of durations, as text with commas; it may be empty ("off"). Raise InvalidValue."""
    if isinstance(value, str):
        value = [] if is_off(value) else value.split(",")
    if not isinstance(value, list | tuple):
        hint = "Write a list of timedeltas or of numbers of seconds."
        raise InvalidValue(WRONG_TYPE, f"expected a list of durations, got {value!r}", hint)
    return tuple(parse_duration(each, minimum) for each in value)


def parse_count(value: Any, minimum: int = 0) -> int:
    """Return a whole number that is not below the minimum. Raise InvalidValue."""
    hint = f"Use a whole number, {minimum} or more."
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,15}", value.strip()):
        value = int(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidValue(OUT_OF_RANGE, f"expected a finite number, got {value}", hint)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidValue(WRONG_TYPE, f"expected a whole number, got {value!r}", hint)
    if value < minimum:
        raise InvalidValue(OUT_OF_RANGE, f"expected {minimum} or more, got {value}", hint)
    if value > MAX_COUNT:
        raise InvalidValue(OUT_OF_RANGE, f"expected at most {MAX_COUNT}", hint)
    return value


def parse_choice(value: Any, choices: Sequence[str]) -> str:
    """Return the one of the choices that the value names. Raise InvalidValue."""
    text = value.strip().lower() if isinstance(value, str) else None
    if text not in choices:
        names = " or ".join(f'"{each}"' for each in choices)
        raise InvalidValue(NOT_A_CHOICE, f"expected one of {', '.join(choices)}, got {value!r}", f"Use {names}.")
    return choices[choices.index(text)]


def parse_dict(value: Any) -> Mapping[str, Any]:
    """Return a dict. Raise InvalidValue."""
    if not isinstance(value, Mapping):
        raise InvalidValue(NOT_A_DICT, f"expected a dict, got a {type(value).__name__}", "Make it a dict.")
    return value


def parse_paths(value: Any) -> Sequence[str]:
    """Return a list of dotted paths that is not empty. Raise InvalidValue."""
    hint = 'Write ["shop.reaping.Orders"].'
    if not (isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)):
        raise InvalidValue(WRONG_TYPE, "expected a list of dotted paths", hint)
    if not value:
        raise InvalidValue(NO_ADAPTERS, "no adapter is named, so no run is watched", hint)
    return value


def parse_token(value: Any) -> str:
    """Return a token that cannot be guessed; '' is none. Raise InvalidValue, which does not quote it."""
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]*", value):
        raise InvalidValue(WRONG_TYPE, "expected a text of visible ASCII characters", "Use a random text.")
    if value and len(value) < MIN_TOKEN_LENGTH:
        problem = f"expected at least {MIN_TOKEN_LENGTH} characters, got {len(value)}"
        raise InvalidValue(OUT_OF_RANGE, problem, "Use a random text that cannot be guessed.")
    return value


def parse_emails(value: Any) -> Sequence[str]:
    """Return a list of e-mail addresses; it may be empty. Raise InvalidValue."""
    hint = 'Write ["oncall@shop.example"].'
    if not isinstance(value, list | tuple):
        raise InvalidValue(WRONG_TYPE, f"expected a list of e-mail addresses, got a {type(value).__name__}", hint)
    for each in value:
        try:
            validate_email(each)
        except ValidationError:
            raise InvalidValue(WRONG_TYPE, f"expected an e-mail address, got {each!r}", hint) from None
    return tuple(value)


def parse_webhook_url(value: Any) -> str:
    """Return an http address; '' is none. Raise InvalidValue, which does not quote it: it may hold a secret."""
    if not isinstance(value, str) or (value and not re.fullmatch(r"https?://[^\s/]+\S*", value)):
        raise InvalidValue(WRONG_TYPE, "expected an http address", "Use one that begins with https://.")
    return value


def is_off(text: str) -> bool:
    """Return whether a text stands for no value."""
    return text.strip().lower() == OFF


PARSERS: Mapping[Any, Parser] = {
    timedelta: parse_duration,
    Sequence[timedelta]: parse_durations,
    int: parse_count,
    Action: partial(parse_choice, choices=(Action.FAIL, Action.REQUEUE)),
    Mode: partial(parse_choice, choices=tuple(Mode)),
}


def parser_for(annotation: Any) -> Parser:
    """Return the parser of an annotated type. Raise KeyError for a type that no setting has yet."""
    if not isinstance(annotation, UnionType):
        return PARSERS[annotation]
    (inner,) = (each for each in get_args(annotation) if each is not type(None))
    parse = PARSERS[inner]

    def parse_optional(value: Any, **limits: Any) -> Any:
        is_none = value is None or (isinstance(value, str) and is_off(value))
        return None if is_none else parse(value, **limits)

    return parse_optional
