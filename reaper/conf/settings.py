"""The settings: `REAPER` in Django's settings, read when first asked for and never written back.

    REAPER = {
        "ADAPTERS": ["shop.reaping.Orders"],             # required: one RunAdapter per kind of run, as dotted paths
        "RUN_TIMEOUT": timedelta(hours=2),               # any field of `Policy`; or seconds, or "2h"
        "KINDS": {"order": {"ON_TIMEOUT": "requeue"}},   # the same, for one kind only
        "CLOCK": "database",                             # any other field of `Settings`
    }

A kind's own value wins over the top level's, that one over its adapter's `policy`, that one over `Policy`'s default.
`docs/SETTINGS.md` lists them all.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from functools import cache, partial
from typing import Any, NamedTuple, get_type_hints

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver

from reaper.adapters import RunAdapter
from reaper.conf.loading import load_adapters
from reaper.conf.validators import (
    MIN_RETENTION,
    UNKNOWN_NAME,
    Parser,
    parse_choice,
    parse_count,
    parse_dict,
    parse_duration,
    parse_emails,
    parse_paths,
    parse_token,
    parse_webhook_url,
    parser_for,
)
from reaper.core.policy import Policy
from reaper.exceptions import InvalidValue

CLOCKS = ("database", "host")
QUEUE = "reaper"
"""The queue of the reaper's own tasks: a backlog of runs must not delay what watches them."""


class Problem(NamedTuple):
    """One mistake in the settings."""

    id: str
    """The id of its system check: "reaper.E004"."""
    message: str
    """Where it is and what is wrong, in one sentence."""
    hint: str
    """How to put it right, in one sentence."""


class PolicyValue(NamedTuple):
    """One field of a kind's policy as it is configured."""

    value: Any
    source: str
    """Where it comes from: "the default", "the adapter", "the settings" or "the settings of the kind"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """`REAPER` as it was read, with names in lower case, and the adapters as instances by kind in their order."""

    adapters: Mapping[str, RunAdapter] = field(default_factory=dict)
    """Required. The RunAdapter of each kind of run, as dotted paths: ["shop.reaping.Orders"]."""
    kinds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Policy values of single kinds: {"order": {"ON_TIMEOUT": "requeue"}}."""
    clock: str = CLOCKS[0]
    """Whose time counts: "database", on which several hosts agree, or "host", for tests with a frozen time."""
    history_retention: timedelta = timedelta(days=90)
    """How long the reaper keeps its own records. At least a day: budgets and backoffs are counted from them."""
    metrics_token: str = ""
    """Bearer token that another machine must send to read /metrics. Without one, only local requests may."""
    alert_emails: Sequence[str] = ()
    """Recipients of alert notifications."""
    alert_webhook: str = ""
    """Address that alerts are posted to, in the form that Slack and Mattermost take."""
    policy: Mapping[str, Any] = field(default_factory=dict)
    """The values of `Policy` fields that hold for all kinds, by field name."""
    problems: Sequence[Problem] = ()
    """Every mistake that was found while reading."""


POLICY_SCHEMA: Mapping[str, Parser] = {
    **{name.upper(): parser_for(annotation) for name, annotation in get_type_hints(Policy).items()},
    # 0 would disable the kind; MODE is for that.
    "MAX_ACTIONS": partial(parse_count, minimum=1),
}
"""The parser of each policy value, by its name in the settings."""
ADAPTER_SCHEMA: Mapping[str, Parser] = {name.lower(): parser for name, parser in POLICY_SCHEMA.items()}
"""The same by its name in an adapter's `policy`."""
SETTINGS_SCHEMA: Mapping[str, Parser] = {
    "ADAPTERS": parse_paths,
    "KINDS": parse_dict,
    "CLOCK": partial(parse_choice, choices=CLOCKS),
    "HISTORY_RETENTION": partial(parse_duration, minimum=MIN_RETENTION),
    "METRICS_TOKEN": parse_token,
    "ALERT_EMAILS": parse_emails,
    "ALERT_WEBHOOK": parse_webhook_url,
    **POLICY_SCHEMA,
}
"""The parser of each top-level setting."""


def adapters() -> dict[str, RunAdapter]:
    """Return the adapters by kind, in the settings' order. Raise ImproperlyConfigured when the settings are wrong."""
    return dict(get_settings().adapters)


def policy(adapter: RunAdapter) -> Policy:
    """Return a kind's configured policy. Raise ImproperlyConfigured when it, or the settings, are wrong."""
    return Policy(**{name: each.value for name, each in policy_with_sources(adapter).items()})


def policy_with_sources(adapter: RunAdapter) -> dict[str, PolicyValue]:
    """Return each value of a kind's configured policy with where it comes from. Raise as `policy` does."""
    given = get_settings()
    found: list[Problem] = []
    layers: list[tuple[str, Mapping[str, Any]]] = [
        ("the default", {each.name: getattr(Policy(), each.name) for each in fields(Policy)}),
        ("the adapter", adapter_policy(adapter, found)),
        ("the settings", given.policy),
        ("the settings of the kind", given.kinds.get(adapter.kind, {})),
    ]
    raise_first(found)
    return {name: PolicyValue(value, source) for source, layer in layers for name, value in layer.items()}


def problems() -> list[Problem]:
    """Return every mistake in the settings and in the adapters' own `policy`."""
    return list(load_settings().problems)


def get_settings() -> Settings:
    """Return the settings. Raise ImproperlyConfigured with the first mistake's sentence when there is one."""
    given = load_settings()
    raise_first(given.problems)
    return given


def raise_first(found: Sequence[Problem]) -> None:
    """Raise ImproperlyConfigured for the first of the problems, if there is one."""
    if found:
        raise ImproperlyConfigured(f"{found[0].message} {found[0].hint}")


@receiver(setting_changed)
def clear_cache(*, setting: str, **_: Any) -> None:
    """Read the settings again once a test has overridden them."""
    if setting == "REAPER":
        load_settings.cache_clear()


@cache
def load_settings() -> Settings:
    """Read the settings and collect what is wrong with them. Raise AppRegistryNotReady when called too early."""
    # Adapters name models. What is imported too early fails, and that must not be cached as their mistake.
    apps.check_models_ready()
    found: list[Problem] = []
    given = parse_or_report("REAPER", parse_dict, getattr(settings, "REAPER", {}), found)
    if given is None:
        return Settings(problems=found)
    values = read_values("REAPER", {"ADAPTERS": (), **given}, SETTINGS_SCHEMA, found)
    paths = values.pop("adapters", ())
    loaded = load_adapters(paths, lambda path, error: found.append(make_problem(f"The adapter {path}", error)))
    # The kind of a broken adapter is not known, which is not a second mistake.
    known = loaded if paths and len(loaded) == len(paths) else None
    kinds = read_kinds(values.pop("kinds", {}), known, found)
    for adapter in loaded.values():
        adapter_policy(adapter, found)
    own = {name: values.pop(name) for name in ADAPTER_SCHEMA if name in values}
    return Settings(adapters=loaded, kinds=kinds, policy=own, problems=found, **values)


def read_values(
    place: str, given: Mapping[str, Any], schema: Mapping[str, Parser], found: list[Problem]
) -> dict[str, Any]:
    """Return the values that can be used, by lower-case name; add what is wrong with the others to `found`."""
    values = {}
    for key, value in given.items():
        try:
            if key not in schema:
                raise InvalidValue(UNKNOWN_NAME, "unknown setting", suggest_name(key, schema))
            values[key.lower()] = schema[key](value)
        except InvalidValue as error:
            found.append(make_problem(f"{place}[{quote_key(key)}]", error))
    return values


def read_kinds(
    given: Mapping[str, Any], known: Mapping[str, RunAdapter] | None, found: list[Problem]
) -> dict[str, dict[str, Any]]:
    """Return each kind's own policy values. `known` is None when not all kinds are known."""
    kinds = {}
    for kind, own in given.items():
        place = f'REAPER["KINDS"][{quote_key(kind)}]'
        if known is not None and kind not in known:
            error = InvalidValue(UNKNOWN_NAME, "no adapter has this kind", suggest_name(kind, known))
            found.append(make_problem(place, error))
        elif (values := parse_or_report(place, parse_dict, own, found)) is not None:
            kinds[kind] = read_values(place, values, POLICY_SCHEMA, found)
    return kinds


def adapter_policy(adapter: RunAdapter, found: list[Problem]) -> dict[str, Any]:
    """Return the adapter's own policy values; add what is wrong with them to `found`."""
    place = f"{type(adapter).__module__}.{type(adapter).__qualname__}.policy"
    values = parse_or_report(place, parse_dict, adapter.policy, found)
    return {} if values is None else read_values(place, values, ADAPTER_SCHEMA, found)


def parse_or_report(place: str, parse: Parser, value: Any, found: list[Problem]) -> Any:
    """Return the parsed value; None when it is wrong, which is added to `found`."""
    try:
        return parse(value)
    except InvalidValue as error:
        found.append(make_problem(place, error))
        return None


def make_problem(place: str, error: InvalidValue) -> Problem:
    """Return the problem of a wrong value at this place."""
    return Problem(f"reaper.{error.number}", f"{place}: {error.problem}.", error.hint)


def quote_key(key: Any) -> str:
    """Return a key as it is written in a settings file."""
    return f'"{key}"' if isinstance(key, str) else repr(key)


def suggest_name(key: Any, known: Iterable[str]) -> str:
    """Return the hint for an unknown name: the nearest one that is known, or all."""
    folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(str(key).casefold(), folded, n=1)
    return f"Did you mean {folded[near[0]]}?" if near else f"Known are: {', '.join(folded.values())}."
