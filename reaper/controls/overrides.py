"""The thresholds that count for a kind: what people have edited wins over the settings. The newest edit counts."""

import logging
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any, NamedTuple, get_type_hints

from django.db import transaction

from reaper.adapters import RunAdapter
from reaper.conf import settings as conf
from reaper.conf.validators import Wrong, as_text, from_text
from reaper.core.decisions import Policy
from reaper.core.explain import one_line
from reaper.ledger.records import plain
from reaper.models import PolicyEdit

logger = logging.getLogger(__name__)

# How a kind is swept is switched and not edited (`switches.py`): a pause and a release belong to it.
NAMES = tuple(each.name for each in fields(Policy) if each.name != "mode")
TYPES = get_type_hints(Policy)
# Below that it is no threshold but a slip of the pen: of a worker that dies it is known only after 12 s.
SECOND, SILENCE = timedelta(seconds=1), timedelta(seconds=12)
LEAST = {
    **dict.fromkeys(("run_timeout", "queue_timeout", "stall_timeout", "alert_after"), SILENCE),
    **dict.fromkeys(("orphan_grace", "lost_grace", "backoff"), SECOND),
}


class Known(NamedTuple):
    """One threshold: what counts, where it comes from, and what would count had nobody edited it."""

    value: Any
    origin: str
    without: Any


def effective(adapter: RunAdapter) -> Policy:
    """Return the thresholds that count now. Raises ImproperlyConfigured when the settings are wrong."""
    return Policy(**{**vars_of(conf.policy(adapter)), **edits(adapter, newest(adapter))})


def known(adapter: RunAdapter) -> dict[str, Known]:
    """Return each threshold with where it comes from."""
    row = newest(adapter)
    edited = edits(adapter, row)
    found = {}
    for name, (value, origin) in conf.origins(adapter).items():
        if name in edited and row:
            found[name] = Known(edited[name], f"edited by {row.by} on {row.at:%Y-%m-%d}", value)
        elif name in NAMES:
            found[name] = Known(value, origin, value)
    return found


def newest(adapter: RunAdapter) -> PolicyEdit | None:
    """Return what was edited last."""
    return PolicyEdit.objects.using(adapter.using).filter(kind=adapter.kind).order_by("-id").first()


def edits(adapter: RunAdapter, row: PolicyEdit | None) -> dict[str, Any]:
    """Return an edit's values. One that cannot be used, such as of another version, is none."""
    found = {}
    for name, value in (row.values if row and isinstance(row.values, Mapping) else {}).items():
        try:
            if name in NAMES:
                found[name] = conf.OWN[name](value)
        except Wrong as wrong:
            logger.warning("%s: the edited %s %s, and is left out", adapter.kind, name, one_line(wrong.rest))
    return found


def edit(adapter: RunAdapter, by: str, now: datetime, values: Mapping[str, Any]) -> PolicyEdit:
    """Set these thresholds, by lower-case name, and end all other edits of the kind; return the new row.

    The values are taken as they are: `read` has checked them.
    """
    with transaction.atomic(using=adapter.using):
        # Whoever edits at the same moment waits for the kind's first row, and then tells what differs from the other's.
        list(PolicyEdit.objects.using(adapter.using).filter(kind=adapter.kind).order_by("id").select_for_update()[:1])
        before, after = effective(adapter), Policy(**{**vars_of(conf.policy(adapter)), **values})
        row = PolicyEdit(kind=adapter.kind, at=now, by=by, changes=differences(before, after))
        row.values = {name: plain(value) for name, value in values.items()}
        row.save(using=adapter.using, force_insert=True)
    logger.warning("the policy of %s was edited by %s: %s", adapter.kind, one_line(by) or "nobody", row.words)
    return row


def differences(before: Policy, after: Policy) -> list[str]:
    """Return a sentence for each threshold that is not the same in both."""
    pairs = [(name, getattr(before, name), getattr(after, name)) for name in NAMES]
    return [f"{name}: {as_text(old)} -> {as_text(new)}" for name, old, new in pairs if old != new]


def read(name: str, text: str) -> Any:
    """Return a threshold from what a person wrote: "1h 30m", "45", "requeue". Raises Wrong."""
    value = conf.OWN[name](from_text(TYPES[name], text))
    least = LEAST.get(name)
    for each in value if isinstance(value, tuple) else (value,):
        if least is not None and isinstance(each, timedelta) and each < least:
            raise Wrong(
                "E006", f"is {as_text(each)}, which is below {as_text(least)}", f"Give {as_text(least)} or more."
            )
    return value


def vars_of(policy: Policy) -> dict[str, Any]:
    """Return the thresholds by name."""
    return {each.name: getattr(policy, each.name) for each in fields(Policy)}
