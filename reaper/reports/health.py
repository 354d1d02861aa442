"""How the sweeps of each kind are doing, and the conditions of them that need attention.

Input: the newest `Sweep` rows, the controls and Beat's schedules. Output: one `SweepHealth` per kind and scope.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from django.apps import apps

from reaper.adapters import RunAdapter
from reaper.controls.modes import ControlState, state_of
from reaper.core.facts import Phase
from reaper.core.formatting import format_duration
from reaper.core.policy import Mode, SweepScope
from reaper.core.reasons import HEALTHY_REASONS
from reaper.models import Sweep

# The task that sweeps each scope, by which its schedule is found.
TASKS = {
    Phase.RUNNING: "reaper.tasks.sweep_running",
    Phase.QUEUED: "reaper.tasks.sweep_pending",
    SweepScope.PARENTS: "reaper.tasks.finalize_parents",
}
# A sweep that missed one interval may have waited behind another; one that missed three is not being started.
MISSED_INTERVALS = 3
# The longest default interval. Counts where Beat has no schedule, for example with `manage.py reaper run`.
DEFAULT_INTERVAL = timedelta(minutes=1)


class Condition(StrEnum):
    """What can need attention about the sweeps of one kind and scope. Values: alert names and metric labels."""

    SWITCHED_OFF = "switched_off"
    SWEEP_OVERDUE = "sweep_overdue"
    SWEEP_FAILING = "sweep_failing"
    BRAKE_ENGAGED = "brake_engaged"


class Schedule(NamedTuple):
    """A task's schedule in Beat."""

    every: timedelta
    enabled: bool


class LatestSweeps(NamedTuple):
    """The newest sweeps of one kind and scope; mostly all three are the same row."""

    started: Sweep | None
    """The newest sweep, ended or not."""
    ended: Sweep | None
    """The newest that has ended, with or without errors."""
    succeeded: Sweep | None
    """The newest that has ended without errors."""

    def is_cut_off(self, now: datetime) -> bool:
        """Return whether the newest has been under way for too long. Until then the one before it counts."""
        sweep = self.started
        return sweep is not None and not sweep.finished_at and now - sweep.started_at > DEFAULT_INTERVAL


class SweepHealth(NamedTuple):
    """How the sweeps of one kind and scope are doing."""

    kind: str
    phase: str
    """The scope: running, queued or parents."""
    since_success: timedelta | None
    """How long ago the last sweep without errors ended; None when there was none."""
    conditions: Mapping[str, str]
    """What needs attention: a sentence per `Condition`. Empty: the sweeps are healthy."""
    notes: Sequence[str] = ()
    """Sentences about the controls, the schedule and the errors of the last sweep."""
    last: Sweep | None = None
    """The last sweep that has ended, with or without errors."""

    @property
    def stuck_runs(self) -> int:
        """Return how many runs the last sweep found stuck and did not recover."""
        if self.last is None:
            return 0
        stuck = sum(count for reason, count in self.last.counts.items() if reason not in HEALTHY_REASONS)
        return max(0, stuck - self.last.acted)

    @property
    def stuck_parents(self) -> int:
        """Return how many parents the last sweep found waiting to be completed and did not complete."""
        return self.last.scanned - self.last.finalized if self.last and self.phase == SweepScope.PARENTS else 0


def health_of(adapter: RunAdapter, now: datetime, controls: ControlState | None = None) -> list[SweepHealth]:
    """Return the health of each scope's sweeps. `controls`: the kind's controls, where they are known already."""
    schedules = load_schedules()
    controls = controls or state_of(adapter, now)
    return [check_scope(adapter, phase, now, schedules.get(phase), controls) for phase in sweep_scopes(adapter)]


def sweep_scopes(adapter: RunAdapter) -> list[str]:
    """Return what there is to sweep of a kind: its parents only when its adapter can find any."""
    has_parents = type(adapter).iter_finalizable_parents is not RunAdapter.iter_finalizable_parents
    return [Phase.RUNNING, Phase.QUEUED, *([SweepScope.PARENTS] if has_parents else [])]


def load_schedules() -> dict[str, Schedule]:
    """Return Beat's schedule of each scope that has one; of several, one that is enabled."""
    if not apps.is_installed("django_celery_beat"):
        return {}
    from django_celery_beat.models import PeriodicTask  # whose models exist only then

    rows = PeriodicTask.objects.exclude(interval=None)
    by_task = {
        row.task: Schedule(row.interval.schedule.run_every, row.enabled)
        for row in rows.filter(task__in=TASKS.values()).select_related("interval").order_by("enabled", "pk")
    }
    return {phase: by_task[task] for phase, task in TASKS.items() if task in by_task}


def check_scope(
    adapter: RunAdapter, phase: str, now: datetime, schedule: Schedule | None, controls: ControlState
) -> SweepHealth:
    """Return the health of one kind and scope."""
    latest = latest_sweeps(adapter, phase)
    limit = MISSED_INTERVALS * (schedule.every if schedule else DEFAULT_INTERVAL)
    unfinished = describe_unfinished(latest.started)
    is_cut_off = latest.is_cut_off(now)
    errors = latest.ended.recorded_errors if latest.ended and not is_cut_off else []
    failures = [error.message for error in errors if not error.is_hold]
    found = {
        Condition.SWITCHED_OFF: [
            *(describe_controls(controls) if controls.mode is Mode.OFF else ()),
            *describe_schedule(schedule),
        ],
        Condition.SWEEP_OVERDUE: describe_overdue(since_end(latest.ended, now), limit),
        Condition.BRAKE_ENGAGED: [error.message for error in errors if error.is_hold],
        Condition.SWEEP_FAILING: unfinished if is_cut_off else failures,
    }
    if found[Condition.SWITCHED_OFF]:
        # It explains why no sweep comes.
        del found[Condition.SWEEP_OVERDUE]
    return SweepHealth(
        kind=adapter.kind,
        phase=phase,
        since_success=since_end(latest.succeeded, now),
        conditions={name: "; ".join(sentences) for name, sentences in found.items() if sentences},
        notes=[*describe_setup(controls, schedule), *unfinished, *(error.message for error in errors)],
        last=latest.ended,
    )


def latest_sweeps(adapter: RunAdapter, phase: str) -> LatestSweeps:
    """Return the newest sweeps of one kind and scope: mostly one query."""
    rows = Sweep.objects.using(adapter.using).filter(kind=adapter.kind, phase=phase).order_by("-started_at", "-id")
    started = rows.first()
    if started is None:
        return LatestSweeps(None, None, None)
    ended = started if started.finished_at else rows.exclude(finished_at=None).first()
    if ended is None or not ended.errors:
        return LatestSweeps(started, ended, ended)
    return LatestSweeps(started, ended, rows.exclude(finished_at=None).filter(errors=[]).first())


def since_end(sweep: Sweep | None, now: datetime) -> timedelta | None:
    """Return how long ago a sweep ended; None when there is none."""
    return now - sweep.finished_at if sweep and sweep.finished_at else None


def describe_overdue(since: timedelta | None, limit: timedelta) -> list[str]:
    """Return a sentence when no sweep has ended, with or without errors, for longer than the limit."""
    if since is None:
        return ["never swept"]
    return [f"the last sweep ended {format_duration(since)} ago"] if since > limit else []


def describe_controls(controls: ControlState) -> list[str]:
    """Return a sentence for each control that differs from normal operation."""
    by = f" by {controls.actor}" if controls.actor else ""
    sentences = []
    if controls.paused_until:
        sentences.append(f"paused{by} until {controls.paused_until:%Y-%m-%d %H:%M:%S %Z}")
    elif controls.mode is not Mode.ACT:
        sentences.append(f"mode set to {controls.mode}{by if controls.mode_is_override else ' in the settings'}")
    if controls.released:
        sentences.append(f"brake lifted{by}")
    return sentences


def describe_setup(controls: ControlState, schedule: Schedule | None) -> list[str]:
    """Return a sentence for everything about the controls and the schedule that differs from normal operation."""
    return [*describe_controls(controls), *describe_schedule(schedule), *([] if schedule else ["no schedule"])]


def describe_schedule(schedule: Schedule | None) -> list[str]:
    """Return a sentence when Beat does not start the sweeps because their schedule is disabled."""
    return ["its schedule is disabled"] if schedule and not schedule.enabled else []


def describe_unfinished(sweep: Sweep | None) -> list[str]:
    """Return a sentence when the newest sweep has not ended."""
    if sweep is None or sweep.finished_at:
        return []
    return [f"the sweep that started at {sweep.started_at:%H:%M:%S} has not ended"]
