"""What operators have switched for a kind of runs: its mode, a pause, a release of the brake."""

import logging
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from reaper.adapters import RunAdapter
from reaper.conf import settings as conf
from reaper.conf.validators import OUT_OF_RANGE, is_off, parse_duration
from reaper.controls.append_only import exclusive_append, latest_row
from reaper.core.formatting import format_value, one_line
from reaper.core.policy import Mode
from reaper.exceptions import InvalidValue
from reaper.models import KindControl

logger = logging.getLogger(__name__)

MAX_CONTROL_DURATION = timedelta(days=366)
"""The longest pause, release or exemption with an end: after a year nobody remembers what was set, and why."""


class ControlState(NamedTuple):
    """How a kind is switched at a moment."""

    mode: Mode
    """How its sweeps behave now; OFF while it is paused."""
    paused_until: datetime | None = None
    """The end of the current pause, whatever the mode is; None without one."""
    released: bool = False
    """An operator has released the brake: it limits nothing."""
    actor: str = ""
    """Who switched the kind last; '' when nobody has yet."""
    mode_is_override: bool = False
    """The mode was switched by an operator, and is not that of the settings."""


def parse_control_duration(text: str) -> timedelta:
    """Return how long a pause, a release or an exemption lasts: "30m", "1h 30m"; zero for "0" and "off", which end it.

    Raise InvalidValue for a text that is not a duration, and for more than MAX_CONTROL_DURATION.
    """
    if text.strip() == "0" or is_off(text):
        return timedelta(0)
    duration = parse_duration(text)
    if duration > MAX_CONTROL_DURATION:
        raise InvalidValue(OUT_OF_RANGE, f"expected at most a year, got {format_value(duration)}", "Use a shorter one.")
    return duration


def state_of(adapter: RunAdapter, now: datetime) -> ControlState:
    """Return how a kind is switched: as the settings say, unless an operator has switched it since."""
    configured = conf.policy(adapter).mode
    row = latest_row(KindControl, adapter)
    if row is None:
        return ControlState(configured)
    paused = row.paused_until if row.paused_until and now < row.paused_until else None
    # Ignore a mode written by another version.
    mode = Mode(row.mode) if row.mode in list(Mode) else configured
    return ControlState(
        mode=Mode.OFF if paused else mode,
        paused_until=paused,
        released=row.released_until is not None and now < row.released_until,
        actor=row.actor,
        mode_is_override=bool(row.mode),
    )


def set_controls(adapter: RunAdapter, actor: str, now: datetime, **changes: Any) -> KindControl:
    """Change some of `mode` ('' is that of the settings), `paused_until` and `released_until`; return the new row."""
    with exclusive_append(KindControl, adapter):
        row = latest_row(KindControl, adapter) or KindControl(kind=adapter.kind)
        for name, value in {"pk": None, "created_at": now, "actor": actor, **changes}.items():
            setattr(row, name, value)
        row.save(using=adapter.using, force_insert=True)
    logger.warning("%s was switched by %s: %s", adapter.kind, one_line(actor) or "nobody", row.summary)
    return row
