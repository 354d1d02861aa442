"""What a parent's outcome is, given its children's statuses. Pure: no database, no clock."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple


class Outcome(NamedTuple):
    """How a parent ends."""

    status: str
    """The parent's status: completed, failed or cancelled."""
    message: str = ""
    """A sentence for people; '' when there is nothing to say."""


# The statuses in which a child has ended.
ENDED = {"completed", "failed", "skipped"}


def outcome(children: Iterable[str], *, waited_too_long: bool = False) -> Outcome | None:
    """Return the outcome that the children's statuses make, or None while it is still open.

    A child in an unknown status keeps the parent open. `waited_too_long`: the parent is older than the queue timeout,
    so missing children will not come.
    """
    count = Counter(children)
    total = count.total()
    if not total:
        return Outcome("failed", "no sources") if waited_too_long else None
    if set(count) - ENDED:
        return None
    failed = count["failed"]
    skipped = count["skipped"]
    if skipped == total:
        return Outcome("cancelled")
    if failed == total:
        return Outcome("failed", f"All {total} sources failed")
    if count["completed"]:
        counts = [(failed, "failed"), (skipped, "skipped")]
        return Outcome("completed", "; ".join(f"{number} sources {word}" for number, word in counts if number))
    return Outcome("failed", f"{failed} failed, {skipped} skipped")
