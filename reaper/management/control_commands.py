"""`manage.py reaper mode | pause | release | exempt | schedules`: the subcommands that limit what the reaper does."""

from datetime import datetime, timedelta
from typing import Any

from django.apps import apps
from django.core.management.base import CommandError

from reaper.conf import clock
from reaper.controls.exemptions import exempt_run, remove_exemption
from reaper.controls.modes import set_controls, state_of
from reaper.core.policy import Mode
from reaper.management.arguments import (
    AS_JSON,
    CONFIGURED_MODE,
    EXEMPTION,
    KIND,
    MODE,
    PAUSE,
    RELEASE,
    REMOVE,
    RUN,
    USER,
)
from reaper.management.context import Context, ExitCode
from reaper.management.subcommand import Subcommand
from reaper.management.targets import actor_name, find_run, get_adapter

EFFECTS = {
    Mode.ACT: "Recovery is active.",
    Mode.DRY_RUN: "Dry run: stuck runs are recorded and left unchanged.",
    Mode.OFF: "Recovery is off.",
}
"""The sentence to print for the mode in effect."""


def mode(context: Context, kind: str, mode: str, user: str | None) -> ExitCode:
    """Set a kind's recovery mode."""
    return change_controls(context, kind, user, mode="" if mode == CONFIGURED_MODE else Mode(mode))


def pause(context: Context, kind: str, duration: timedelta, user: str | None) -> ExitCode:
    """Pause recovery of a kind; a duration of zero ends the pause."""
    return change_controls(context, kind, user, paused_until=duration)


def release(context: Context, kind: str, duration: timedelta, user: str | None) -> ExitCode:
    """Lift a kind's brake; a duration of zero restores it."""
    return change_controls(context, kind, user, released_until=duration)


def change_controls(context: Context, kind: str, user: str | None, **changes: Any) -> ExitCode:
    """Change one of a kind's controls, and print what is in effect now. Durations are counted from now."""
    adapter = get_adapter(kind)
    now = clock.now(adapter.using)
    row = set_controls(
        adapter, actor_name(user), now, **{name: from_now(value, now) for name, value in changes.items()}
    )
    context.console.say(f"{kind}: {row.summary}. {EFFECTS[state_of(adapter, now).mode]}")
    return ExitCode.OK


def from_now(value: Any, now: datetime) -> Any:
    """Return the time at which a duration from now is over, None for zero, and any other value as it is."""
    if not isinstance(value, timedelta):
        return value
    return now + value if value else None


def exempt(context: Context, run: str, duration: timedelta | None, user: str | None) -> ExitCode:
    """Exempt one run from recovery, for a while or without expiry; a duration of zero removes the exemption."""
    target = find_run(run)
    now = clock.now(target.adapter.using)
    if duration == timedelta(0):
        was_exempt = remove_exemption(target.adapter, target.run.pk)
        context.console.say(f"{run} is monitored again." if was_exempt else f"{run} was not exempt.")
        return ExitCode.OK if was_exempt else ExitCode.NOT_OK
    until = None if duration is None else now + duration
    exempt_run(target.adapter, target.run.pk, actor_name(user), now, until)
    expiry = f"until {until:%Y-%m-%d %H:%M:%S %Z}" if until else "with no expiry"
    context.console.say(f"{run} is exempt from recovery {expiry}.")
    return ExitCode.OK


def schedules(context: Context, remove: bool) -> ExitCode:
    """List the schedules, or delete them. Raise CommandError without django-celery-beat."""
    if not apps.is_installed("django_celery_beat"):
        raise CommandError("django_celery_beat is not installed: there are no schedules.", returncode=ExitCode.NOT_OK)
    from reaper.schedules import TASKS, delete_rows, existing_rows  # needs django_celery_beat's models

    if remove:
        context.console.say(f"{delete_rows()} schedules were deleted. `manage.py migrate` creates them again.")
        return ExitCode.OK
    rows = {row.task: row for row in existing_rows()}
    for task in TASKS:
        row = rows.get(task)
        if row is None:
            context.console.say(f"{task}: missing; `manage.py migrate` creates it")
        else:
            context.console.say(f"{task}: {'enabled' if row.enabled else 'disabled'}, {row.scheduler}")
    is_complete = all(task in rows and rows[task].enabled for task in TASKS)
    return ExitCode.OK if is_complete else ExitCode.NOT_OK


SUBCOMMANDS = (
    Subcommand(
        "mode",
        "Set a kind's recovery mode: act, dry_run or off.",
        mode,
        [KIND, MODE, USER, AS_JSON],
        says_sentences=True,
    ),
    Subcommand(
        "pause", "Pause recovery of a kind for a while.", pause, [KIND, PAUSE, USER, AS_JSON], says_sentences=True
    ),
    Subcommand(
        "release",
        "Lift a kind's brake for a while, so that a sweep acts on any number of runs.",
        release,
        [KIND, RELEASE, USER, AS_JSON],
        says_sentences=True,
    ),
    Subcommand(
        "exempt",
        "Exempt one run from recovery, for a while or with no expiry.",
        exempt,
        [RUN, EXEMPTION, USER, AS_JSON],
        says_sentences=True,
    ),
    Subcommand(
        "schedules",
        "List the schedules by which Beat starts the sweeps.",
        schedules,
        [REMOVE, AS_JSON],
        says_sentences=True,
    ),
)
