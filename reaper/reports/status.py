"""Is the reaper healthy, and what is stuck? One `Status` answers this everywhere.

The dashboard, `manage.py reaper status` and `diagnose`, the JSON and the metrics render this value and decide
nothing themselves, so that they cannot disagree. Nothing is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from typing import NamedTuple

from reaper.adapters import PhaseSummary, RunAdapter
from reaper.broker.connection import Broker
from reaper.broker.queues import resolve_queue, scan_queues
from reaper.conf import clock
from reaper.conf.settings import QUEUE
from reaper.controls.modes import ControlState, state_of
from reaper.controls.overrides import effective_policy
from reaper.core.facts import UNFINISHED_PHASES
from reaper.core.formatting import one_line
from reaper.core.policy import Mode
from reaper.evidence.collector import EvidenceCollector
from reaper.evidence.fleet import Fleet, load_fleet
from reaper.models import Alert
from reaper.reports.health import Condition, SweepHealth, health_of
from reaper.reports.judged import JudgedRuns, OnProgress, ignore_progress, judge_unfinished, sort_verdicts
from reaper.reports.run_lines import CappedList, RunLine, line_of_parent
from reaper.sweeps.judging import judge_runs
from reaper.workers.registry import Worker

# The oldest runs of a phase that an overview judges: those that are stuck are among them.
JUDGE_LIMIT = 50
# Open alerts that an overview lists.
MAX_ALERTS = 20
# Seconds that the broker may take to count the messages of the queues; everything else of the dashboard takes 300 ms.
QUEUE_DEPTH_TIMEOUT_S = 1.0


class Depth(IntEnum):
    """How much a status reads. Each depth has all that the ones before it have."""

    SWEEPS = 1
    """Controls, counts, the health of the sweeps, workers: a dozen SQL queries per kind. For a scrape."""
    OVERVIEW = 2
    """Also judges the oldest `JUDGE_LIMIT` runs per phase; reads the alerts and the queues (at most 1 s)."""
    ALL_RUNS = 3
    """Also judges every unfinished run, asks workers about single tasks, and finds parents. For `diagnose`.

    Takes seconds to minutes.
    """


class WorkerState(StrEnum):
    """A worker's state, in the order in which workers are listed: those in trouble first."""

    DEAD = "dead"
    DRAINING = "draining"
    ALIVE = "alive"
    SHUT_DOWN = "shut_down"


@dataclass(frozen=True)
class PhaseStatus:
    """The unfinished runs of one phase."""

    count: int
    oldest: timedelta | None
    """The age of the oldest; None when there is no run, or none with a timestamp."""


class ScopeCondition(NamedTuple):
    """Something that needs attention about the sweeps of one scope."""

    phase: str
    code: str
    """A `Condition`."""
    message: str


@dataclass
class KindStatus:
    """One kind of runs. Filled step by step: what was read before an error is kept."""

    kind: str
    controls: ControlState = field(default_factory=lambda: ControlState(Mode.ACT))
    """Its mode, pause and brake override."""
    sweeps: Sequence[SweepHealth] = ()
    """The health of the sweeps of each scope."""
    phases: Mapping[str, PhaseStatus] = field(default_factory=dict)
    """How many runs are running and queued."""
    judged: JudgedRuns | None = None
    """The runs that were judged for this status; None at `Depth.SWEEPS`."""
    is_complete: bool = False
    """True when every unfinished run was judged and every parent read, so that these alone count."""
    parents: CappedList = field(default_factory=CappedList)
    """The parents that wait to be completed; read at `Depth.ALL_RUNS` only."""
    error: str = ""
    """Why the kind could not be read, in one line; '' when it could."""

    @property
    def stuck_runs(self) -> int:
        """Return how many runs are stuck or at risk.

        Where not every run was judged, the last sweeps judged all of them: what they left is counted, or what was
        judged since, if that is more.
        """
        judged = self.judged.stuck if self.judged else 0
        return judged if self.is_complete else max(judged, sum(each.stuck_runs for each in self.sweeps))

    @property
    def stuck_parents(self) -> int:
        """Return how many parents wait to be completed; where they were not read, how many the last sweep left."""
        return self.parents.total if self.is_complete else sum(each.stuck_parents for each in self.sweeps)

    @property
    def conditions(self) -> Sequence[ScopeCondition]:
        """Return what needs attention about its sweeps."""
        return [
            ScopeCondition(each.phase, code, message)
            for each in self.sweeps
            for code, message in each.conditions.items()
        ]

    @property
    def is_brake_engaged(self) -> bool:
        """Return whether the brake limits one of its sweeps."""
        return any(Condition.BRAKE_ENGAGED in each.conditions for each in self.sweeps)

    @property
    def is_healthy(self) -> bool:
        """Return whether nothing is stuck, all its sweeps are in order, and it could be read."""
        return not (self.stuck_runs or self.stuck_parents or self.conditions or self.error)

    @property
    def late_runs(self) -> int:
        """Return how many judged runs are not stuck, but running or waiting for long."""
        return self.judged.late.total if self.judged else 0

    @property
    def lines(self) -> Sequence[RunLine]:
        """Return the runs and parents that need attention, the oldest first."""
        runs = (
            sorted(self.judged.lines, key=lambda line: line.age or timedelta.max, reverse=True) if self.judged else []
        )
        return [*runs, *self.parents.lines]


@dataclass(frozen=True)
class Status:
    """The state of everything at one moment."""

    now: datetime
    depth: Depth
    kinds: Sequence[KindStatus]
    workers: Sequence[Worker]
    """All that reported within about the last day, those in trouble first."""
    alerts: Sequence[Alert] = ()
    """The newest open alerts; not read at `Depth.SWEEPS`."""
    queues: Mapping[str, int | None] = field(default_factory=dict)
    """Waiting messages by queue, None where not known; not read at `Depth.SWEEPS`."""
    queues_error: str = ""
    """Why the queues could not be read; '' when they could."""

    @property
    def is_healthy(self) -> bool:
        """Return whether nothing is stuck, every sweep is in order, and every kind could be read."""
        return all(each.is_healthy for each in self.kinds)

    @property
    def has_warnings(self) -> bool:
        """Return whether runs are late or an alert is open that nobody has acknowledged: healthy, but no all-clear."""
        return any(each.late_runs for each in self.kinds) or any(not row.acknowledged_by for row in self.alerts)

    @property
    def stuck_runs(self) -> int:
        """Return how many runs are stuck or at risk."""
        return sum(each.stuck_runs for each in self.kinds)

    @property
    def stuck_parents(self) -> int:
        """Return how many parents wait to be completed."""
        return sum(each.stuck_parents for each in self.kinds)

    @property
    def late_runs(self) -> int:
        """Return how many judged runs are not stuck, but running or waiting for long."""
        return sum(each.late_runs for each in self.kinds)


def build_status(
    adapters: Mapping[str, RunAdapter], depth: Depth, limit: int | None = None, report: OnProgress = ignore_progress
) -> Status:
    """Return the status of the kinds. A kind that cannot be read has an `error`, and does not hide the others.

    `limit`: lines kept per list of a kind (None: all). `report`: called with the number of runs judged since the last
    call. Raises `django.db.Error` when the workers or alerts cannot be read.
    """
    fleet = load_fleet()
    workers = sorted(fleet.workers, key=lambda each: (ORDER[state_of_worker(each)], each.hostname, each.incarnation))
    if depth is Depth.SWEEPS:
        kinds = [build_kind(adapter) for adapter in adapters.values()]
        return Status(fleet.now, depth, kinds, workers)
    own_queues = {QUEUE, *(resolve_queue(each) for each in adapters.values())}
    with Broker() as broker:
        judge = RunJudge(broker, fleet, depth, limit, report)
        kinds = [build_kind(adapter, judge) for adapter in adapters.values()]
        scan = scan_queues(broker, own_queues.union(fleet.queues) - {""}, QUEUE_DEPTH_TIMEOUT_S)
    return Status(
        now=fleet.now,
        depth=depth,
        kinds=kinds,
        workers=workers,
        alerts=list(Alert.objects.filter(resolved_at=None).order_by("-id")[:MAX_ALERTS]),
        queues=dict(sorted(scan.depth.items())),
        queues_error=scan.error,
    )


class RunJudge(NamedTuple):
    """What it takes to judge the runs of each kind for a status."""

    broker: Broker
    fleet: Fleet
    depth: Depth
    limit: int | None
    on_progress: OnProgress

    def judge(self, adapter: RunAdapter, now: datetime, summaries: Mapping[str, PhaseSummary]) -> JudgedRuns:
        """Return the runs of a kind, judged: all of them or, for an overview, the oldest."""
        policy = effective_policy(adapter)
        if self.depth is Depth.ALL_RUNS:
            collector = EvidenceCollector(adapter, self.broker, policy, now)
            return judge_unfinished(collector, self.limit, self.on_progress)
        collector = EvidenceCollector(adapter, self.broker, policy, now, may_inspect=False, fleet=self.fleet)
        oldest = [run for summary in summaries.values() for run in summary.oldest]
        return sort_verdicts([judge_runs(oldest, collector)] if oldest else [], collector, self.limit)

    def list_parents(self, adapter: RunAdapter) -> CappedList:
        """Return the parents that wait to be completed; none for an overview, as finding them takes many queries."""
        found = CappedList(self.limit)
        for parent in adapter.iter_finalizable_parents() if self.depth is Depth.ALL_RUNS else ():
            found.add(line_of_parent(adapter, parent))
        return found


def build_kind(adapter: RunAdapter, judge: RunJudge | None = None) -> KindStatus:
    """Return the status of one kind; without `judge` no run is judged."""
    status = KindStatus(adapter.kind)
    try:
        now = clock.now(adapter.using)
        status.controls = state_of(adapter, now)
        status.sweeps = health_of(adapter, now, status.controls)
        summaries: dict[str, PhaseSummary] = {
            phase: adapter.summarize(phase, JUDGE_LIMIT) for phase in UNFINISHED_PHASES
        }
        status.phases = {
            phase: PhaseStatus(summary.count, oldest_age(summary, now)) for phase, summary in summaries.items()
        }
        if judge:
            status.judged = judge.judge(adapter, now, summaries)
            status.is_complete = judge.depth is Depth.ALL_RUNS
            status.parents = judge.list_parents(adapter)
    except Exception as error:  # the host's code, which may raise anything
        status.error = one_line(f"{type(error).__name__}: {error}")
    return status


def oldest_age(summary: PhaseSummary, now: datetime) -> timedelta | None:
    """Return the age of a phase's oldest run; None when there is none, or none with a timestamp."""
    return max((age for run in summary.oldest if (age := run.age(now)) is not None), default=None)


def state_of_worker(worker: Worker) -> WorkerState:
    """Return the state of a worker."""
    if worker.alive:
        return WorkerState.DRAINING if worker.draining else WorkerState.ALIVE
    return WorkerState.SHUT_DOWN if worker.ended_at else WorkerState.DEAD


ORDER = {state: position for position, state in enumerate(WorkerState)}
