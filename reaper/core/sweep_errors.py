"""What went wrong in a sweep, or held it back: a code for programs and a sentence for people. Pure."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple


class ErrorCode(StrEnum):
    """What kind of problem it was. Stored in `Sweep.errors`."""

    BRAKE_ENGAGED = "brake_engaged"
    """Most of the unfinished runs would have been acted on at once, so only a few were."""
    MASS_SILENCE = "mass_silence"
    """Many workers fell silent together, so decisions that rest on a task's absence are suspended."""
    BROKER_UNAVAILABLE = "broker_unavailable"
    """The broker did not take a message. What it did not take is sent by a later sweep."""
    DATABASE = "database"
    """The database refused a write, or too many of them."""
    ADAPTER = "adapter"
    """The kind's adapter raised, or returned something that cannot be used."""
    SWITCHED_OFF = "switched_off"
    """Somebody switched the kind off, or to dry run, during the sweep."""
    CUT_SHORT = "cut_short"
    """Anything else that ended the sweep early."""


HOLDS = frozenset({ErrorCode.BRAKE_ENGAGED, ErrorCode.MASS_SILENCE})
"""The codes of sweeps that a safeguard held back, as opposed to something that failed."""


class SweepError(NamedTuple):
    """One thing that went wrong in a sweep, or held it back."""

    code: str
    """An `ErrorCode`; may be any text if another version wrote it."""
    message: str
    """One sentence for people, without a full stop."""

    @property
    def is_hold(self) -> bool:
        """Return whether a safeguard held the sweep back."""
        return self.code in HOLDS

    def as_json(self) -> dict[str, str]:
        """Return it as `Sweep.errors` stores it: `{"code": …, "message": …}`."""
        return {"code": str(self.code), "message": self.message}

    @classmethod
    def from_json(cls, value: Any) -> "SweepError":
        """Return the error that `as_json` stored. Any other value becomes the message."""
        if isinstance(value, Mapping):
            return cls(str(value.get("code", "")), str(value.get("message", "")))
        return cls("", str(value))
