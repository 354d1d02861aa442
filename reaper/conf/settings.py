"""The settings: `REAPER` in Django's settings, read when first asked for and never written back.

    REAPER = {
        "ADAPTERS": ["shop.reaping.Orders"],             # required: one RunAdapter per kind of run, as dotted paths
        "RUN_TIMEOUT": timedelta(hours=2),               # any field of `Policy` in upper case; numbers are seconds
        "KINDS": {"order": {"ON_TIMEOUT": "requeue"}},   # the same, for one kind only
        "CLOCK": "database",                             # whose time counts; or "host"
        "KEEP_HISTORY": timedelta(days=90),              # how long the reaper's own records are kept
        "ALERT_EMAILS": ["oncall@shop.example"],         # who is told of alerts
        "ALERT_WEBHOOK": "https://…",                    # what is told of alerts, as Slack and Mattermost take it
        "METRICS_TOKEN": "…",                            # who asks for /metrics from elsewhere has to send it
    }

A kind's own value wins over the top level's, that one over its adapter's `policy`, that one over `Policy`'s default.
"""

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import cache, partial
from typing import Any, NamedTuple, get_type_hints

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.signals import setting_changed
from django.core.validators import validate_email
from django.dispatch import receiver
from django.utils.module_loading import import_string

from reaper.adapters import RunAdapter
from reaper.conf.validators import (
    parse_choice,
    parse_count,
    parse_dict,
    parse_duration,
    parse_paths,
    parser_for,
)
from reaper.core.policy import Policy
from reaper.exceptions import InvalidValue

CLOCKS = ("database", "host")
HISTORY_RETENTION = timedelta(days=90)
# Budgets and backoffs are counted from the records; and PostgreSQL lets nobody delete younger ones (migration 0006).
MIN_RETENTION = timedelta(days=1)
# Characters: 128 bits in base 64 are 22, and nobody counts them.
MIN_TOKEN_LENGTH = 20
# The reaper's own queue: a backlog of runs must not silence what watches them.
QUEUE = "reaper"
# Safe in `KIND:ID`, in a log line and as a metric's label.
KIND_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def parse_retention(value: Any) -> timedelta:
    """Return a duration of at least a day. Raises Wrong."""
    length = parse_duration(value)
    if length < MIN_RETENTION:
        raise InvalidValue(
            "E006", f"is {value}, which is less than a day", "Keep at least a day, or leave the default of 90."
        )
    return length


def parse_token(value: Any) -> str:
    """Return a token that nobody guesses; '' is none. Raises Wrong, which does not say what it is."""
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]*", value):
        raise InvalidValue("E005", "is no text of visible ASCII characters", "Give a random text.")
    if value and len(value) < MIN_TOKEN_LENGTH:
        rest = f"has {len(value)} characters, which can be guessed"
        raise InvalidValue("E006", rest, f"Give a random text of at least {MIN_TOKEN_LENGTH}.")
    return value


def parse_emails(value: Any) -> Sequence[str]:
    """Return a list of e-mail addresses; it may be empty. Raises Wrong."""
    hint = 'Write ["oncall@shop.example"].'
    if not isinstance(value, list | tuple):
        raise InvalidValue("E005", f"is a {type(value).__name__} and no list", hint)
    for each in value:
        try:
            validate_email(each)
        except ValidationError:
            raise InvalidValue("E005", f"holds {each!r}, which is no e-mail address", hint) from None
    return tuple(value)


def parse_webhook_url(value: Any) -> str:
    """Return an http address; '' is none. Raises Wrong, which does not say what it is: it may hold a secret."""
    if not isinstance(value, str) or (value and not re.fullmatch(r"https?://[^\s/]+\S*", value)):
        raise InvalidValue("E005", "is no http address", "Give one that begins with https://.")
    return value


# What a value has to be, by the name of its setting.
POLICY_SCHEMA: Mapping[str, Callable[[Any], Any]] = {
    **{name.upper(): parser_for(annotation) for name, annotation in get_type_hints(Policy).items()},
    # A budget may be none, but a sweep that may act on nothing is a switch in disguise.
    "MAX_ACTIONS": partial(parse_count, least=1),
}
SETTINGS_SCHEMA: Mapping[str, Callable[[Any], Any]] = {
    "ADAPTERS": parse_paths,
    "KINDS": parse_dict,
    "CLOCK": partial(parse_choice, choices=CLOCKS, number="E010"),
    "KEEP_HISTORY": parse_retention,
    "METRICS_TOKEN": parse_token,
    "ALERT_EMAILS": parse_emails,
    "ALERT_WEBHOOK": parse_webhook_url,
    **POLICY_SCHEMA,
}
# The same as an adapter names them.
ADAPTER_SCHEMA: Mapping[str, Callable[[Any], Any]] = {name.lower(): coerce for name, coerce in POLICY_SCHEMA.items()}


class Problem(NamedTuple):
    """One mistake in the settings: the id of its system check, one sentence, and how to put it right."""

    id: str
    message: str
    hint: str


class Settings(NamedTuple):
    """`REAPER` as it was read. `values` and those of each kind have lower-case names."""

    adapters: Mapping[str, RunAdapter]
    values: Mapping[str, Any]
    kinds: Mapping[str, Mapping[str, Any]]
    problems: Sequence[Problem]


def adapters() -> dict[str, RunAdapter]:
    """Return the adapters by kind, in the settings' order. Raises ImproperlyConfigured when the settings are wrong."""
    return dict(get_settings().adapters)


def policy(adapter: RunAdapter) -> Policy:
    """Return the thresholds of one kind of run. Raises ImproperlyConfigured when they or the settings are wrong."""
    return Policy(**{name: value for name, (value, _) in policy_with_sources(adapter).items()})


def policy_with_sources(adapter: RunAdapter) -> dict[str, tuple[Any, str]]:
    """Return each threshold of a kind, by its lower-case name, with where it comes from. Raises as `policy` does."""
    given = get_settings()
    found: list[Problem] = []
    layers = [
        ("the default", default_policy()),
        ("the adapter", adapter_policy(adapter, found)),
        ("the settings", {name: value for name, value in given.values.items() if name in ADAPTER_SCHEMA}),
        ("the settings of the kind", given.kinds.get(adapter.kind, {})),
    ]
    raise_first(found)
    return {name: (value, where) for where, layer in layers for name, value in layer.items()}


def default_policy() -> dict[str, Any]:
    """Return the defaults."""
    return {name: getattr(Policy(), name) for name in ADAPTER_SCHEMA}


def clock() -> str:
    """Return whose time counts: "database" or "host". Raises ImproperlyConfigured when the settings are wrong."""
    return get_settings().values.get("clock", CLOCKS[0])


def history_retention() -> timedelta:
    """Return how long the reaper's own records are kept. Raises ImproperlyConfigured when the settings are wrong."""
    return get_settings().values.get("keep_history", HISTORY_RETENTION)


def metrics_token() -> str:
    """Return what has to be sent to see the metrics from another machine; '' when nobody there may see them.

    Raises ImproperlyConfigured when the settings are wrong.
    """
    return get_settings().values.get("metrics_token", "")


def alert_emails() -> Sequence[str]:
    """Return who is told of alerts by e-mail. Raises ImproperlyConfigured when the settings are wrong."""
    return get_settings().values.get("alert_emails", ())


def alert_webhook() -> str:
    """Return the address that alerts are posted to; '' is none. Raises ImproperlyConfigured as the others do."""
    return get_settings().values.get("alert_webhook", "")


def problems() -> list[Problem]:
    """Return every mistake in the settings and in the adapters' own `policy`."""
    return list(load_settings().problems)


def get_settings() -> Settings:
    """Return the settings. Raises ImproperlyConfigured with the first mistake's sentence when there is one."""
    given = load_settings()
    raise_first(given.problems)
    return given


def raise_first(found: Sequence[Problem]) -> None:
    """Raise ImproperlyConfigured for the first of the problems, if there is one."""
    if found:
        raise ImproperlyConfigured(f"{found[0].message} {found[0].hint}")


@receiver(setting_changed)
def clear_cache(*, setting: str, **_: Any) -> None:
    """Read the settings anew once a test has overridden them."""
    if setting == "REAPER":
        load_settings.cache_clear()


@cache
def load_settings() -> Settings:
    """Read the settings and collect what is wrong with them. Raises AppRegistryNotReady when asked too early."""
    # Adapters name models. What is imported too early fails, and that must not be remembered as their mistake.
    apps.check_models_ready()
    found: list[Problem] = []
    given = getattr(settings, "REAPER", {})
    if not isinstance(given, Mapping):
        found.append(
            problem("REAPER", InvalidValue("E001", f"is a {type(given).__name__} and no dict", "Make it a dict."))
        )
        return Settings({}, {}, {}, found)
    values = read_values("REAPER", {"ADAPTERS": (), **given}, SETTINGS_SCHEMA, found)
    paths = values.get("adapters", ())
    loaded = load_adapters(paths, found)
    # The kind of a broken adapter is not known, which is no second mistake.
    all_kinds = loaded if paths and len(loaded) == len(paths) else None
    kinds = read_kinds(values.get("kinds", {}), all_kinds, found)
    for adapter in loaded.values():
        adapter_policy(adapter, found)
    return Settings(loaded, values, kinds, found)


def read_values(
    where: str, given: Mapping[str, Any], schema: Mapping[str, Callable[[Any], Any]], found: list[Problem]
) -> dict[str, Any]:
    """Return the values that can be used, by lower-case name; add what is wrong with the others to `found`."""
    values = {}
    for key, value in given.items():
        try:
            if key not in schema:
                raise InvalidValue("E002", "is no setting of the reaper", suggestion(key, schema))
            values[key.lower()] = schema[key](value)
        except InvalidValue as wrong:
            found.append(problem(f"{where}[{quoted(key)}]", wrong))
    return values


def read_kinds(
    given: Mapping[str, Any], known: Mapping[str, RunAdapter] | None, found: list[Problem]
) -> dict[str, dict[str, Any]]:
    """Return each kind's own policy values. `known` is None when not all kinds are known."""
    kinds = {}
    for kind, own in given.items():
        where = f'REAPER["KINDS"][{quoted(kind)}]'
        try:
            if known is not None and kind not in known:
                raise InvalidValue("E004", "is no adapter's kind", suggestion(kind, known))
            kinds[kind] = read_values(where, parse_dict(own), POLICY_SCHEMA, found)
        except InvalidValue as wrong:
            found.append(problem(where, wrong))
    return kinds


def adapter_policy(adapter: RunAdapter, found: list[Problem]) -> dict[str, Any]:
    """Return the adapter's own policy values; add what is wrong with them to `found`."""
    where = f"{type(adapter).__module__}.{type(adapter).__qualname__}.policy"
    try:
        return read_values(where, parse_dict(adapter.policy), ADAPTER_SCHEMA, found)
    except InvalidValue as wrong:
        found.append(problem(where, wrong))
        return {}


def load_adapters(paths: Iterable[str], found: list[Problem]) -> dict[str, RunAdapter]:
    """Return an instance of each adapter that can be used, by kind; add what is wrong with the others to `found`."""
    loaded: dict[str, RunAdapter] = {}
    for path in paths:
        try:
            adapter = load_adapter(path)
            if adapter.kind in loaded:
                rest = f"has the kind {adapter.kind!r}, which an adapter before it has already"
                raise InvalidValue("E018", rest, "Name each adapter once, and give each a kind of its own.")
            loaded[adapter.kind] = adapter
        except InvalidValue as wrong:
            found.append(problem(f"The adapter {path}", wrong))
    return loaded


def load_adapter(path: str) -> RunAdapter:
    """Return an instance of the adapter at a dotted path. Raises Wrong, whatever is the matter with it."""
    try:
        named = import_string(path)
    except Exception as error:  # importing runs the host's code, which may raise anything
        rest = f"cannot be imported ({type(error).__name__}: {error})"
        raise InvalidValue("E013", rest, "Check the path, and what its module imports.") from error
    if not (isinstance(named, type) and issubclass(named, RunAdapter)):
        raise InvalidValue(
            "E014", "is no subclass of RunAdapter", "Subclass reaper.adapters.RunAdapter or ModelRunAdapter."
        )
    if inspect.isabstract(named):
        missing = ", ".join(sorted(named.__abstractmethods__))
        raise InvalidValue(
            "E015", f"is abstract: it lacks {missing}", "Define what it lacks, or name a subclass that does."
        )
    try:
        adapter = named()
    except Exception as error:
        rest = f"cannot be made without arguments ({type(error).__name__}: {error})"
        raise InvalidValue("E016", rest, "Its __init__ must work without any.") from error
    kind, task = getattr(adapter, "kind", None), getattr(adapter, "task", None)
    if not (isinstance(kind, str) and KIND_NAME.fullmatch(kind)):
        hint = "Use at most 100 letters, digits, '_', '-' and '.', such as 'crawl_job'."
        raise InvalidValue("E017", f"has the kind {kind!r}, which is no name", hint)
    if not (isinstance(task, str) and task):
        raise InvalidValue(
            "E019", f"has the task {task!r}, which is no name", "Set `task` to the name of its Celery task."
        )
    return adapter


def problem(place: str, wrong: InvalidValue) -> Problem:
    """Return the problem of a wrong value that was found at this place."""
    return Problem(f"reaper.{wrong.number}", f"{place} {wrong.problem}.", wrong.hint)


def quoted(key: Any) -> str:
    """Return a key as it is written in a settings file."""
    return f'"{key}"' if isinstance(key, str) else repr(key)


def suggestion(key: Any, known: Iterable[str]) -> str:
    """Return the hint for a name that is not known: the nearest one that is, or all."""
    folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(str(key).casefold(), folded, n=1)
    return f"Did you mean {folded[near[0]]}?" if near else f"Known are: {', '.join(folded.values())}."
