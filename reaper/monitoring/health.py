"""The reaper watched: how the sweeps of each kind and phase are doing, and what of it is worth a warning."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.apps import apps

from reaper.adapters import RunAdapter
from reaper.controls import modes as switches
from reaper.core.brake import HELD
from reaper.core.facts import Phase
from reaper.core.formatting import format_duration
from reaper.core.policy import Mode, SweepScope
from reaper.models import Sweep

# The task that sweeps each phase, by which its schedule is found.
TASKS = {
    Phase.RUNNING: "reaper.tasks.sweep_running",
    Phase.QUEUED: "reaper.tasks.sweep_pending",
    SweepScope.PARENTS: "reaper.tasks.finalize_parents",
}
# A sweep that missed one tick may have waited behind another; one that missed three is not running.
MISSED_INTERVALS = 3
# As seldom as any is started by default: of one that nobody has a schedule for, such as with `manage.py reaper run`.
DEFAULT_INTERVAL = timedelta(minutes=1)
SWITCHED_OFF, OVERDUE, FAILING, BRAKE_HELD = "switched_off", "sweep_overdue", "sweep_failing", "brake_held"
CONDITIONS = (SWITCHED_OFF, OVERDUE, FAILING, BRAKE_HELD)


class Schedule(NamedTuple):
    """How often Beat starts a task, and whether it is switched on."""

    every: timedelta
    enabled: bool


class Health(NamedTuple):
    """How the sweeps of one kind and phase are doing."""

    kind: str
    phase: str
    # How long ago the last sweep without errors ended; None when there was none.
    last_good: timedelta | None
    overdue: bool
    # What is worth a warning: its name, and a sentence.
    conditions: Mapping[str, str]
    # Sentences about its switches, its schedule, and what went wrong since.
    notes: Sequence[str] = ()
    # The last sweep that has ended, well or not.
    last: Sweep | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as the JSON of `diagnose` has it."""
        ago = None if self.last_good is None else int(self.last_good.total_seconds())
        return {
            "kind": self.kind,
            "phase": self.phase,
            "last_good_s": ago,
            "overdue": self.overdue,
            "conditions": dict(self.conditions),
            "notes": list(self.notes),
        }


def health_of(adapter: RunAdapter, now: datetime, state: switches.ControlState | None = None) -> list[Health]:
    """Return how each phase of a kind is swept. `state`: how it is switched, where that is known already."""
    schedules, state = load_schedules(), state or switches.state_of(adapter, now)
    return [health(adapter, phase, now, schedules.get(phase), state) for phase in sweep_scopes(adapter)]


def sweep_scopes(adapter: RunAdapter) -> list[str]:
    """Return what there is to sweep of a kind: its parents only when it has any."""
    has_parents = type(adapter).iter_finalizable_parents is not RunAdapter.iter_finalizable_parents
    return [Phase.RUNNING, Phase.QUEUED, *([SweepScope.PARENTS] if has_parents else [])]


def load_schedules() -> dict[str, Schedule]:
    """Return the schedule of each phase that Beat has one for: of several the one that is on."""
    if not apps.is_installed("django_celery_beat"):
        return {}
    rows = apps.get_model("django_celery_beat.PeriodicTask").objects.exclude(interval=None)
    of_task = {
        row.task: Schedule(row.interval.schedule.run_every, row.enabled)
        for row in rows.filter(task__in=TASKS.values()).select_related("interval").order_by("enabled", "pk")
    }
    return {phase: of_task[task] for phase, task in TASKS.items() if task in of_task}


def health(
    adapter: RunAdapter, phase: str, now: datetime, schedule: Schedule | None, state: switches.ControlState
) -> Health:
    """Return how the sweeps of one kind and phase are doing."""
    last, ended, good_one = latest(adapter, phase)
    limit = MISSED_INTERVALS * (schedule.every if schedule else DEFAULT_INTERVAL)
    ago, good = age_of(ended, now), age_of(good_one, now)
    off, wrong = describe_schedule(schedule), last_errors(last)
    notes = [*describe_controls(state), *off, *([] if schedule else ["no schedule"]), *wrong]
    if last and not last.finished_at and now - last.started_at <= DEFAULT_INTERVAL:
        wrong = []
    found = {
        SWITCHED_OFF: [*(describe_controls(state) if state.mode is Mode.OFF else ()), *off],
        OVERDUE: overdue(ago, limit),
        BRAKE_HELD: [each for each in wrong if each.startswith(HELD)],
        FAILING: [each for each in wrong if not each.startswith(HELD)],
    }
    if found[SWITCHED_OFF]:
        # Then it is known why none comes.
        del found[OVERDUE]
    conditions = {name: "; ".join(sentences) for name, sentences in found.items() if sentences}
    return Health(adapter.kind, phase, good, good is None or good > limit, conditions, notes, ended)


def latest(adapter: RunAdapter, phase: str) -> tuple[Sweep | None, Sweep | None, Sweep | None]:
    """Return the last sweep, the last that has ended, and the last of these that went well: mostly one row."""
    rows = Sweep.objects.using(adapter.using).filter(kind=adapter.kind, phase=phase).order_by("-started_at", "-id")
    last = rows.first()
    ended = last if last is None or last.finished_at else rows.exclude(finished_at=None).first()
    good = ended if ended is None or not ended.errors else rows.exclude(finished_at=None).filter(errors=[]).first()
    return last, ended, good


def overdue(ago: timedelta | None, limit: timedelta) -> list[str]:
    """Return that no sweep has ended for longer than the limit, well or not."""
    if ago is None:
        return ["it has never been swept"]
    return [f"the last sweep ended {format_duration(ago)} ago"] if ago > limit else []


def age_of(sweep: Sweep | None, now: datetime) -> timedelta | None:
    """Return how long ago a sweep ended; None when there is none."""
    return now - sweep.finished_at if sweep and sweep.finished_at else None


def describe_controls(state: switches.ControlState) -> list[str]:
    """Return how a kind is switched, where that is not as usual."""
    who, said = f" by {state.actor}" if state.actor else "", []
    if state.paused_until:
        said.append(f"it is paused{who} until {state.paused_until:%Y-%m-%d %H:%M:%S %Z}")
    elif state.mode is not Mode.ACT:
        said.append(f"it is switched to {state.mode}{who if state.mode_is_override else ' by the settings'}")
    if state.released:
        said.append(f"the brake is released{who}")
    return said


def describe_schedule(schedule: Schedule | None) -> list[str]:
    """Return that Beat does not start it, because its schedule is switched off."""
    return ["its schedule is switched off"] if schedule and not schedule.enabled else []


def last_errors(sweep: Sweep | None) -> list[str]:
    """Return what the last sweep has told of itself."""
    if sweep and not sweep.finished_at:
        return [f"the one that began at {sweep.started_at:%H:%M:%S} has not ended"]
    return list(sweep.errors) if sweep else []
