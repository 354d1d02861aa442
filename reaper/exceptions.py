"""The exceptions that the reaper raises itself.

    ReaperError
    ├── BrokerUnavailable   the message broker did not answer in time
    ├── InvalidValue        a setting, or a value for one, cannot be used
    └── ScanIncomplete      a queue could not be read to its end

A sweep raises none of them to its caller: it records what went wrong in its `Sweep` row and goes on with what it has.
"""

__all__ = ["BrokerUnavailable", "InvalidValue", "ReaperError", "ScanIncomplete"]


class ReaperError(Exception):
    """The base class of all exceptions that the reaper raises itself."""


class BrokerUnavailable(ReaperError):
    """The broker did not answer. Raised once per sweep: after the first failure the broker is not called again."""


class InvalidValue(ReaperError):
    """A setting's value cannot be used."""

    def __init__(self, number: str, problem: str, hint: str) -> None:
        """Describe the mistake.

        `number` is the id of its system check without the prefix ("E004"); `problem` what is wrong, to follow the
        setting's name and a colon ("expected 1 or more, got 0"); `hint` a sentence that says what to do.
        """
        super().__init__(problem)
        self.number = number
        self.problem = problem
        self.hint = hint


class ScanIncomplete(ReaperError):
    """A queue, or the rest of a scan, was not read; the text is a sentence for a person."""
