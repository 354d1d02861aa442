"""The policy in effect for a kind: what operators have overridden wins over the settings."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from reaper.adapters import RunAdapter
from reaper.conf import settings as conf
from reaper.controls.append_only import exclusive_append, latest_row
from reaper.core.formatting import format_value, one_line
from reaper.core.policy import Policy
from reaper.core.serialization import to_plain
from reaper.exceptions import InvalidValue
from reaper.models import PolicyOverride
from reaper.workers.timing import DEAD_AFTER

logger = logging.getLogger(__name__)

OVERRIDABLE = tuple(each.name for each in fields(Policy) if each.name != "mode")
"""The policy fields that can be overridden. The mode is switched instead (`modes.py`), beside pause and release."""
MINIMUMS = {
    # A worker's death is known only after this silence: a shorter limit can only be a typing mistake.
    **dict.fromkeys(("run_timeout", "queue_timeout", "stall_timeout", "alert_after"), DEAD_AFTER),
    **dict.fromkeys(("orphan_grace", "lost_grace", "backoff"), timedelta(seconds=1)),
}
"""The shortest durations that an operator may set, by field."""


class EffectiveValue(NamedTuple):
    """One policy field of a kind."""

    value: Any
    """The value in effect."""
    source: str
    """Where it comes from: "the settings", "override by ada on 2026-03-01"."""
    is_override: bool
    """An operator has set it."""
    configured: Any
    """The value that would be in effect without the override."""


def effective_policy(adapter: RunAdapter) -> Policy:
    """Return the policy in effect now. Raise ImproperlyConfigured when the settings are wrong."""
    return replace(conf.policy(adapter), **override_values(adapter, latest_row(PolicyOverride, adapter)))


def effective_values(adapter: RunAdapter) -> dict[str, EffectiveValue]:
    """Return each overridable field with its value, and where that comes from."""
    row = latest_row(PolicyOverride, adapter)
    overrides = override_values(adapter, row)
    found = {}
    for name, configured in conf.policy_with_sources(adapter).items():
        if name in overrides and row:
            source = f"override by {row.actor} on {row.created_at:%Y-%m-%d}"
            found[name] = EffectiveValue(overrides[name], source, True, configured.value)
        elif name in OVERRIDABLE:
            found[name] = EffectiveValue(configured.value, configured.source, False, configured.value)
    return found


def override_values(adapter: RunAdapter, row: PolicyOverride | None) -> dict[str, Any]:
    """Return a row's values; those that cannot be used, such as of another version, are left out."""
    found = {}
    for name, value in (row.values if row and isinstance(row.values, Mapping) else {}).items():
        try:
            if name in OVERRIDABLE:
                found[name] = conf.ADAPTER_SCHEMA[name](value)
        except InvalidValue as error:
            logger.warning("%s: the override of %s is ignored: %s", adapter.kind, name, one_line(error.problem))
    return found


def set_overrides(adapter: RunAdapter, actor: str, now: datetime, values: Mapping[str, Any]) -> PolicyOverride:
    """Override these fields, by lower-case name, and end all other overrides of the kind; return the new row.

    The values are taken as they are: `parse_override` has checked them.
    """
    with exclusive_append(PolicyOverride, adapter):
        before = effective_policy(adapter)
        after = replace(conf.policy(adapter), **values)
        row = PolicyOverride(kind=adapter.kind, created_at=now, actor=actor, changes=differences(before, after))
        row.values = {name: to_plain(value) for name, value in values.items()}
        row.save(using=adapter.using, force_insert=True)
    logger.warning("the policy of %s was overridden by %s: %s", adapter.kind, one_line(actor) or "nobody", row.summary)
    return row


def differences(before: Policy, after: Policy) -> list[str]:
    """Return a sentence for each field that differs: "run_timeout: 1 h -> 2 h"."""
    old = asdict(before)
    new = asdict(after)
    changed = [name for name in OVERRIDABLE if old[name] != new[name]]
    return [f"{name}: {format_value(old[name])} -> {format_value(new[name])}" for name in changed]


def parse_override(name: str, text: str) -> Any:
    """Return the value of a field from what a person wrote: "1h 30m", "45", "requeue", "off". Raise InvalidValue."""
    minimum = MINIMUMS.get(name)
    parse = conf.ADAPTER_SCHEMA[name]
    return parse(text) if minimum is None else parse(text, minimum=minimum)
