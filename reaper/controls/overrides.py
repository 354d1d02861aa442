"""The thresholds that count for a kind: what people have edited wins over the settings. The newest edit counts."""

import logging
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any, NamedTuple, get_type_hints

from django.db import transaction

from reaper.adapters import RunAdapter
from reaper.conf import settings as conf
from reaper.conf.validators import from_text
from reaper.core.formatting import format_value, one_line
from reaper.core.policy import Policy
from reaper.exceptions import InvalidValue
from reaper.ledger.records import to_plain
from reaper.models import PolicyOverride

logger = logging.getLogger(__name__)

# How a kind is swept is switched and not edited (`switches.py`): a pause and a release belong to it.
NAMES = tuple(each.name for each in fields(Policy) if each.name != "mode")
TYPES = get_type_hints(Policy)
# Below that it is no threshold but a slip of the pen: of a worker that dies it is known only after 12 s.
SECOND, SILENCE = timedelta(seconds=1), timedelta(seconds=12)
MINIMUMS = {
    **dict.fromkeys(("run_timeout", "queue_timeout", "stall_timeout", "alert_after"), SILENCE),
    **dict.fromkeys(("orphan_grace", "lost_grace", "backoff"), SECOND),
}


class EffectiveValue(NamedTuple):
    """One threshold: what counts, where it comes from, and what would count had nobody edited it."""

    value: Any
    origin: str
    without: Any


def effective_policy(adapter: RunAdapter) -> Policy:
    """Return the thresholds that count now. Raises ImproperlyConfigured when the settings are wrong."""
    return Policy(**{**as_dict(conf.policy(adapter)), **override_values(adapter, latest(adapter))})


def effective_values(adapter: RunAdapter) -> dict[str, EffectiveValue]:
    """Return each threshold with where it comes from."""
    row = latest(adapter)
    edited = override_values(adapter, row)
    found = {}
    for name, (value, origin) in conf.policy_with_sources(adapter).items():
        if name in edited and row:
            found[name] = EffectiveValue(edited[name], f"edited by {row.actor} on {row.created_at:%Y-%m-%d}", value)
        elif name in NAMES:
            found[name] = EffectiveValue(value, origin, value)
    return found


def latest(adapter: RunAdapter) -> PolicyOverride | None:
    """Return what was edited last."""
    return PolicyOverride.objects.using(adapter.using).filter(kind=adapter.kind).order_by("-id").first()


def override_values(adapter: RunAdapter, row: PolicyOverride | None) -> dict[str, Any]:
    """Return an edit's values. One that cannot be used, such as of another version, is none."""
    found = {}
    for name, value in (row.values if row and isinstance(row.values, Mapping) else {}).items():
        try:
            if name in NAMES:
                found[name] = conf.ADAPTER_SCHEMA[name](value)
        except InvalidValue as wrong:
            logger.warning("%s: the edited %s %s, and is left out", adapter.kind, name, one_line(wrong.problem))
    return found


def set_overrides(adapter: RunAdapter, by: str, now: datetime, values: Mapping[str, Any]) -> PolicyOverride:
    """Set these thresholds, by lower-case name, and end all other edits of the kind; return the new row.

    The values are taken as they are: `read` has checked them.
    """
    with transaction.atomic(using=adapter.using):
        # Whoever edits at the same moment waits for the kind's first row, and then tells what differs from the other's.
        list(
            # guard: two who edit at once
            PolicyOverride.objects.using(adapter.using).filter(kind=adapter.kind).order_by("id").select_for_update()[:1]
        )
        before, after = effective_policy(adapter), Policy(**{**as_dict(conf.policy(adapter)), **values})
        row = PolicyOverride(kind=adapter.kind, created_at=now, actor=by, changes=differences(before, after))
        row.values = {name: to_plain(value) for name, value in values.items()}
        row.save(using=adapter.using, force_insert=True)
    logger.warning("the policy of %s was edited by %s: %s", adapter.kind, one_line(by) or "nobody", row.summary)
    return row


def differences(before: Policy, after: Policy) -> list[str]:
    """Return a sentence for each threshold that is not the same in both."""
    pairs = [(name, getattr(before, name), getattr(after, name)) for name in NAMES]
    return [f"{name}: {format_value(old)} -> {format_value(new)}" for name, old, new in pairs if old != new]


def parse_threshold(name: str, text: str) -> Any:
    """Return a threshold from what a person wrote: "1h 30m", "45", "requeue". Raises Wrong."""
    value = conf.ADAPTER_SCHEMA[name](from_text(TYPES[name], text))
    least = MINIMUMS.get(name)
    for each in value if isinstance(value, tuple) else (value,):
        if least is not None and isinstance(each, timedelta) and each < least:
            raise InvalidValue(
                "E006",
                f"is {format_value(each)}, which is below {format_value(least)}",
                f"Give {format_value(least)} or more.",
            )
    return value


def as_dict(policy: Policy) -> dict[str, Any]:
    """Return the thresholds by name."""
    return {each.name: getattr(policy, each.name) for each in fields(Policy)}
