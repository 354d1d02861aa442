"""Resolve what the command line names: kinds, runs, and the user who asks."""

import getpass
import os
from typing import NamedTuple

from django.core.management.base import CommandError

from reaper.adapters import RunAdapter
from reaper.conf import settings as conf
from reaper.core.facts import RunFacts
from reaper.management.context import ExitCode

MAX_ACTOR_LENGTH = 200
"""The length of the ledger's column."""


class Target(NamedTuple):
    """A run that the command line names."""

    adapter: RunAdapter
    run: RunFacts


def select_adapters(kind: str | None) -> list[RunAdapter]:
    """Return the adapter of one kind, or all. Raise CommandError if there is no such kind."""
    return list(conf.adapters().values()) if kind is None else [get_adapter(kind)]


def get_adapter(kind: str) -> RunAdapter:
    """Return a kind's adapter. Raise CommandError if there is no such kind."""
    adapters = conf.adapters()
    if kind not in adapters:
        raise CommandError(f"There is no kind {kind!r}. Kinds are: {', '.join(adapters)}.", returncode=ExitCode.USAGE)
    return adapters[kind]


def find_run(text: str) -> Target:
    """Return the run that KIND:ID names. Raise CommandError if there is none."""
    kind, _, pk = text.partition(":")
    if not (kind and pk):
        kinds = ", ".join(conf.adapters())
        raise CommandError(f"{text!r} is not KIND:ID. Kinds are: {kinds}.", returncode=ExitCode.USAGE)
    adapter = get_adapter(kind)
    run = adapter.get(pk)
    if run is None:
        sentence = f"There is no run {text!r} (for a parent, see `finalize`)."
        raise CommandError(sentence, returncode=ExitCode.USAGE)
    return Target(adapter, run)


def actor_name(user: str | None) -> str:
    """Return who asks, for the ledger: `--user`, or who is logged in. Never "", which is the reaper itself."""
    return ((user or "").strip() or login_name())[:MAX_ACTOR_LENGTH]


def login_name() -> str:
    """Return who is logged in; "uid 1000" in a container whose user has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return f"uid {os.getuid()}"
