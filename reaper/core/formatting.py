"""How durations, timestamps and foreign text are formatted for people, and how a written duration is parsed. Pure."""

import re
from datetime import datetime, timedelta
from typing import Any

MAX_LENGTH = 500
"""How many characters of a foreign text (a name, an id, an error) are shown."""
UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
"""Each unit of a duration with its seconds, the largest first."""
OFF = "off"
"""What stands for None and for an empty list, where a setting may have no value."""
JUST_AHEAD = timedelta(minutes=1)
"""A moment this far in the future is still "just now": it was read after `now` was, or clocks differ a little."""

AMOUNT = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*(d|h|min|m|s|)", re.ASCII)
NEGATIVE = re.compile(r"-\d{1,9}(\.\d{1,6})?", re.ASCII)


def one_line(text: object, limit: int = MAX_LENGTH) -> str:
    """Return a foreign text as one printable line: it can neither control a terminal nor forge a second log line."""
    line = "".join(char if char.isprintable() else " " for char in str(text)[: limit + 1])
    return line if len(line) <= limit else f"{line[:limit]}…"


def parse_duration_text(text: str) -> timedelta | None:
    """Return the duration that a person wrote: "90" (seconds), "1h 30m", "1.5h", "15min", "2 h"; None if it is none.

    A negative number is a negative duration, and one too long for Python is `timedelta.max`, so that the validator of
    the value can say what is wrong with it.
    """
    text = text.strip().lower()
    if NEGATIVE.fullmatch(text):
        return timedelta(seconds=float(text))
    amounts = AMOUNT.findall(text)
    initials = [unit[:1] for _, unit in amounts]
    sizes = {unit[:1]: size for unit, size in UNITS}
    # Each unit once and the largest first, or one number alone.
    in_order = initials in ([each for each in sizes if each in initials], [""])
    if not amounts or not in_order or AMOUNT.sub("", text).strip():
        return None
    seconds = sum(float(amount) * sizes.get(initial, 1) for (amount, _), initial in zip(amounts, initials, strict=True))
    try:
        return timedelta(seconds=seconds)
    except OverflowError:
        return timedelta.max


def format_duration(value: timedelta, *, exact: bool = False) -> str:
    """Return a duration in its largest unit and the next: "1 h 30 min", "45 s", "0 s".

    With `exact`, use as many units as it takes, so that `parse_duration_text` returns the same: "1 d 5 s", "0.5 s".
    """
    if exact and value < timedelta(0):
        return f"-{format_duration(-value, exact=True)}"
    seconds = max(0.0, value.total_seconds())
    if not exact:
        seconds = int(seconds)
    parts: list[str] = []
    units = [each for each in UNITS if seconds >= each[1]] or [UNITS[-1]]
    for unit, size in units if exact else units[:2]:
        count = seconds // size if unit != "s" else round(seconds, 6)
        if count or (not parts and not exact):
            parts.append(f"{count:g} {unit}" if count < 1e6 else f"{count:.0f} {unit}")
        seconds -= count * size
    return " ".join(parts) or "0 s"


def format_ago(moment: datetime, now: datetime) -> str:
    """Return how long before `now` a moment was: "5 s ago", "just now"; far in the future, it is written out."""
    if moment > now + JUST_AHEAD:
        return f"in the future ({moment:%Y-%m-%d %H:%M:%S %Z})"
    return f"{format_duration(now - moment)} ago" if now - moment >= timedelta(seconds=1) else "just now"


def format_value(value: Any) -> str:
    """Return the value of a setting as it is written in a form: "1 h", "30 s, 2 min", "requeue", "off"."""
    if value is None:
        return OFF
    if isinstance(value, timedelta):
        return format_duration(value, exact=True)
    if isinstance(value, tuple | list):
        return ", ".join(format_value(each) for each in value) or OFF
    return str(value)
