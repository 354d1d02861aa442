"""The subcommands by which a kind is switched, and a single run is exempted."""

import argparse
import getpass
import os
from datetime import datetime, timedelta
from typing import Any

from reaper.adapters import RunAdapter
from reaper.conf import clock
from reaper.controls.exemptions import exempt_run, remove_exemption
from reaper.controls.modes import parse_control_duration, set_controls, state_of
from reaper.core.facts import RunFacts
from reaper.core.policy import Mode
from reaper.exceptions import InvalidValue
from reaper.models import KindControl

# What stands for the mode that the settings name.
SETTINGS = "settings"
# What the sweeps of each mode do.
SWEEPS = {Mode.ACT: "act", Mode.DRY_RUN: "observe, and touch nothing", Mode.OFF: "do nothing"}


def parse_length(text: str) -> timedelta:
    """Return how long a control lasts; zero ends it. Raise argparse's error, which says what is right."""
    try:
        return parse_control_duration(text)
    except InvalidValue as error:
        hint = "write 30s, 15m, 2h or 7d, or 0 to end it"
        raise argparse.ArgumentTypeError(f"{error.problem}: {hint}") from None


def actor(user: str | None) -> str:
    """Return who asks, as the ledger has it. Never '': that is the reaper itself."""
    return ((user or "").strip() or login())[:200]


def login() -> str:
    """Return who is logged in; a container's user may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return f"uid {os.getuid()}"


class Switching:
    """What `manage.py reaper` does to switch a kind. The command's own class has the rest."""

    page: Any
    adapter: Any
    find: Any

    def do_mode(self, kind: str, mode: str, user: str | None, **_: Any) -> int:
        """Switch how a kind is swept from now on."""
        return self.switch(kind, user, mode="" if mode == SETTINGS else Mode(mode))

    def do_pause(self, kind: str, duration: timedelta, user: str | None, **_: Any) -> int:
        """Switch a kind off for a while."""
        return self.switch(kind, user, paused_until=duration)

    def do_release(self, kind: str, duration: timedelta, user: str | None, **_: Any) -> int:
        """Have the brake hold nothing of a kind for a while."""
        return self.switch(kind, user, released_until=duration)

    def do_exempt(self, run: str, duration: timedelta | None, user: str | None, **_: Any) -> int:
        """Have one run be left alone for a while or for good, or end that."""
        adapter: RunAdapter
        facts: RunFacts
        adapter, facts = self.find(run)
        now = clock.now(adapter.using)
        if duration == timedelta(0):
            was = remove_exemption(adapter, facts.pk)
            self.page.say(f"{run} is looked after again." if was else f"{run} was not exempted.")
            return 0 if was else 1
        until = None if duration is None else now + duration
        exempt_run(adapter, facts.pk, actor(user), now, until)
        self.page.say(f"{run} is left alone {f'until {until:%Y-%m-%d %H:%M:%S %Z}' if until else 'for good'}.")
        return 0

    def switch(self, kind: str, user: str | None, **changes: Any) -> int:
        """Make one change, and print how the kind is switched now."""
        adapter: RunAdapter = self.adapter(kind)
        now = clock.now(adapter.using)
        row: KindControl = set_controls(adapter, actor(user), now, **to_deadlines(changes, now))
        state = state_of(adapter, now)
        self.page.say(f"{kind}: {row.summary}. Its sweeps {SWEEPS[state.mode]} from now on.")
        return 0


def to_deadlines(changes: dict[str, Any], now: datetime) -> dict[str, Any]:
    """Return the changes with each duration as the moment at which it is over; None for none."""
    over = {name: now + value if value else None for name, value in changes.items() if isinstance(value, timedelta)}
    return {**changes, **over}
