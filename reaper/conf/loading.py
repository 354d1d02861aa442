"""The host's adapters, loaded from their dotted paths."""

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

from django.utils.module_loading import import_string

from reaper.adapters import RunAdapter
from reaper.conf.validators import ADAPTER_UNNAMED, ADAPTER_UNUSABLE
from reaper.exceptions import InvalidValue

KIND_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""Safe in `KIND:ID`, in a log line and as a metric's label."""


def load_adapters(paths: Iterable[str], report: Callable[[str, InvalidValue], None]) -> dict[str, RunAdapter]:
    """Return an instance of each adapter that can be used, by kind; report each path that cannot, with the reason."""
    loaded: dict[str, RunAdapter] = {}
    for path in paths:
        try:
            adapter = load_adapter(path)
            if adapter.kind in loaded:
                problem = f"its kind {adapter.kind!r} is taken by an adapter before it"
                raise InvalidValue(ADAPTER_UNNAMED, problem, "Name each adapter once, and give each a kind of its own.")
            loaded[adapter.kind] = adapter
        except InvalidValue as error:
            report(path, error)
    return loaded


def load_adapter(path: str) -> RunAdapter:
    """Return an instance of the adapter at a dotted path. Raise InvalidValue whatever is wrong with it."""
    cls = load_class(path)
    try:
        adapter = cls()
    except Exception as error:
        problem = f"cannot be created without arguments ({type(error).__name__}: {error})"
        raise InvalidValue(ADAPTER_UNUSABLE, problem, "Its __init__ must work without any.") from error
    check_names(getattr(adapter, "kind", None), getattr(adapter, "task", None))
    return adapter


def load_class(path: str) -> type[RunAdapter]:
    """Return the adapter class at a dotted path. Raise InvalidValue when it cannot be imported or is not one."""
    try:
        found = import_string(path)
    except Exception as error:  # importing runs the host's code, which may raise anything
        problem = f"cannot be imported ({type(error).__name__}: {error})"
        raise InvalidValue(ADAPTER_UNUSABLE, problem, "Check the path, and what its module imports.") from error
    if not (isinstance(found, type) and issubclass(found, RunAdapter)):
        hint = "Subclass reaper.adapters.RunAdapter or ModelRunAdapter."
        raise InvalidValue(ADAPTER_UNUSABLE, "is not a subclass of RunAdapter", hint)
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        hint = "Define what is missing, or name a subclass that does."
        raise InvalidValue(ADAPTER_UNUSABLE, f"is abstract: {missing} missing", hint)
    return found


def check_names(kind: Any, task: Any) -> None:
    """Raise InvalidValue unless an adapter's kind and task are names."""
    if not (isinstance(kind, str) and KIND_NAME.fullmatch(kind)):
        hint = "Use at most 100 letters, digits, '_', '-' and '.', such as 'crawl_job'."
        raise InvalidValue(ADAPTER_UNNAMED, f"its kind {kind!r} is not a name", hint)
    if not (isinstance(task, str) and task):
        hint = "Set `task` to the name of its Celery task."
        raise InvalidValue(ADAPTER_UNNAMED, f"its task {task!r} is not a name", hint)
