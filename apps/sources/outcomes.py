"""What a parent's outcome is, given its children's statuses. Pure: no database, no clock."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple


class Outcome(NamedTuple):
    """How a parent ends: its status and a sentence for a person ('' when there is nothing to say)."""

    status: str
    message: str = ""


ENDED = {"completed", "failed", "skipped"}


def outcome(children: Iterable[str], *, waited_too_long: bool = False) -> Outcome | None:
    """Return the outcome that the children's statuses make, or None while it is still open.

    A child in a status that this table does not know keeps the parent open: what is not understood proves nothing.
    `waited_too_long`: the parent is older than the queue timeout, so children that are not there will not come.
    """
    count = Counter(children)
    total = count.total()
    if not total:
        return Outcome("failed", "no sources") if waited_too_long else None
    if set(count) - ENDED:
        return None
    failed, skipped = count["failed"], count["skipped"]
    if skipped == total:
        return Outcome("cancelled")
    if failed == total:
        return Outcome("failed", f"All {total} sources failed")
    if count["completed"]:
        said = [f"{failed} sources failed"] * bool(failed) + [f"{skipped} sources skipped"] * bool(skipped)
        return Outcome("completed", "; ".join(said))
    return Outcome("failed", f"{failed} failed, {skipped} skipped")
