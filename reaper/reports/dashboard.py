"""What the person on call sees at a glance: of each kind what runs, waits and is suspect; workers, queues, schedules.

Read for the overview page and `manage.py reaper status`; nothing is written. The page is to be there within 300 ms.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import router
from django.db.models import Count, Max
from django.db.models.functions import TruncDay, TruncHour
from django.utils import timezone

from reaper.adapters import PhaseSummary, RunAdapter
from reaper.broker.connection import Broker
from reaper.broker.queues import scan_queues
from reaper.conf import clock
from reaper.conf import settings as conf
from reaper.conf.settings import QUEUE
from reaper.controls import modes as switches
from reaper.controls import overrides as policies
from reaper.core.decisions import alert_for
from reaper.core.facts import Phase, RunFacts
from reaper.core.formatting import one_line
from reaper.core.policy import Mode, Policy
from reaper.core.reasons import HEALTHY_REASONS
from reaper.evidence.collector import EvidenceCollector, Fleet, queue_of
from reaper.models import Alert, LedgerEntry, Sweep, WorkerHeartbeat
from reaper.monitoring.health import Health, health_of
from reaper.reports.diagnosis import RunLine, line_of_verdict
from reaper.sweeps import sweep as sweeps
from reaper.workers import registry as workers
from reaper.workers.registry import Worker

# The oldest runs of a phase that are judged anew: the suspects are among them.
JUDGE_LIMIT = 50
# Rows of a table on one screen.
MAX_ROWS = 20
# Workers are shown in this order: those that died come first, those that ended as they should last.
STATE_ORDER = ("dead", "draining", "alive", "ended")
# Seconds that the broker may take for the depth of the queues.
SCAN_TIMEOUT_S = 1.0
DAY = timedelta(days=1)
PHASES = (Phase.RUNNING, Phase.QUEUED)


class KindStatus(NamedTuple):
    """One kind of runs."""

    kind: str
    state: switches.ControlState
    policy: Policy
    # By phase: how many, and the oldest ones; how old the oldest is.
    loads: Mapping[str, PhaseSummary]
    oldest: Mapping[str, timedelta | None]
    sweeps: Sequence[Health]
    # Of the oldest runs those that are not well, with what the next sweep would do; how many the last sweeps left.
    suspects: Sequence[RunLine]
    left: int
    # Why it could not be read: one sentence, '' when it could.
    error: str = ""

    @property
    def conditions(self) -> list[tuple[str, str, str]]:
        """Return what is the matter with its sweeps, as (phase, name, sentence)."""
        return [(each.phase, name, said) for each in self.sweeps for name, said in each.conditions.items()]

    @property
    def held(self) -> bool:
        """True when the brake holds one of its sweeps."""
        return any("brake_held" in each.conditions for each in self.sweeps)


class TimeBucket(NamedTuple):
    """One hour or day of a chart."""

    starts_at: datetime
    counts: Mapping[str, int]
    # Seconds: the longest time for which nobody had worked on a run of it; None without any.
    slowest: float | None

    @property
    def total(self) -> int:
        """Return how many runs were acted on."""
        return sum(self.counts.values())


class Overview(NamedTuple):
    """Everything at a moment."""

    now: datetime
    kinds: Sequence[KindStatus]
    workers: Sequence[Worker]
    # Messages that wait, by queue; None: not known. And why.
    queues: Mapping[str, int | None]
    queues_error: str
    alerts: Sequence[Alert]
    recent: Sequence[Sweep]
    hours: Sequence[TimeBucket]
    days: Sequence[TimeBucket]

    @property
    def well(self) -> bool:
        """True when nothing is the matter with any sweep, and no run is suspect."""
        return not any(each.conditions or each.suspects or each.left or each.error for each in self.kinds)

    def as_json(self) -> dict[str, Any]:
        """Return it as the JSON of `status` has it."""
        kinds = [
            {
                "kind": each.kind,
                "mode": str(each.state.mode),
                "released": each.state.released,
                "runs": {phase: load.count for phase, load in each.loads.items()},
                "oldest_s": {phase: age and int(age.total_seconds()) for phase, age in each.oldest.items()},
                "suspects": len(each.suspects),
                "left": each.left,
                "sweeps": [health.as_json() for health in each.sweeps],
                "error": each.error,
            }
            for each in self.kinds
        ]
        workers = [
            {
                "worker": each.name,
                "state": worker_state(each),
                "seen_s": int((self.now - each.seen_at).total_seconds()),
                "active": len(each.active),
                "held": len(each.held),
                "queues": sorted(each.queues),
            }
            for each in self.workers
        ]
        alerts = [{"alert": row.subject, "since": row.opened_at, "message": row.message} for row in self.alerts]
        return {"well": self.well, "kinds": kinds, "alerts": alerts, "workers": workers, "queues": dict(self.queues)}


def worker_state(worker: Worker) -> str:
    """Return how a worker is, in a word."""
    if worker.alive:
        return "draining" if worker.draining else "alive"
    return "ended" if worker.ended_at else "dead"


def overview() -> Overview:
    """Return everything. A kind that cannot be read says so, and hides no other. Raises django.db.Error."""
    using = router.db_for_write(WorkerHeartbeat)
    now = clock.now(using)
    crowd = Fleet(workers.load_workers(using, now), now)
    with Broker() as broker:
        kinds = [kind_now(adapter, broker, crowd) for adapter in conf.adapters().values()]
        mine = {queue_of(each) for each in conf.adapters().values()}
        seen = scan_queues(broker, {QUEUE, *crowd.queues, *mine} - {""}, SCAN_TIMEOUT_S)
    databases = list(dict.fromkeys(adapter.using for adapter in conf.adapters().values()))
    return Overview(
        now,
        kinds,
        sorted(
            crowd.workers, key=lambda each: (STATE_ORDER.index(worker_state(each)), each.hostname, each.incarnation)
        ),
        dict(sorted(seen.depth.items())),
        seen.error,
        list(Alert.objects.filter(resolved_at=None).order_by("-id")[:MAX_ROWS]),
        [row for each in databases for row in recent_sweeps(each)][:MAX_ROWS],
        time_buckets(databases, now, timedelta(hours=1), 24),
        time_buckets(databases, now, DAY, 30),
    )


def kind_now(adapter: RunAdapter, broker: Broker, crowd: Fleet) -> KindStatus:
    """Return what there is to say of one kind."""
    try:
        now = clock.now(adapter.using)
        state, policy = switches.state_of(adapter, now), policies.effective_policy(adapter)
        loads: dict[str, PhaseSummary] = {phase: adapter.summarize(phase, JUDGE_LIMIT) for phase in PHASES}
        sources = EvidenceCollector(adapter, broker, policy, now, may_inspect=False)
        sources.fleet = crowd
        health = health_of(adapter, now, state)
        ages = {phase: oldest(load, now) for phase, load in loads.items()}
        suspects = stuck_among([run for load in loads.values() for run in load.oldest], sources)
        left = sum(count_unresolved(each.last) for each in health if each.last)
        return KindStatus(adapter.kind, state, policy, loads, ages, health, suspects[:MAX_ROWS], left)
    except Exception as error:  # the host's code, which may raise anything
        said = one_line(f"{type(error).__name__}: {error}")
        return KindStatus(adapter.kind, switches.ControlState(Mode.ACT), Policy(), {}, {}, (), (), 0, said)


def oldest(load: PhaseSummary, now: datetime) -> timedelta | None:
    """Return the age of the oldest run; None when there is none, or none that tells."""
    return max((age for run in load.oldest if (age := run.age(now)) is not None), default=None)


def stuck_among(runs: Sequence[RunFacts], sources: EvidenceCollector) -> list[RunLine]:
    """Return the runs that are not well, or worth a warning, with what would be done with each."""
    judged = sweeps.judge_all(runs, sources) if runs else []
    alerts = [alert_for(each.run, sources.policy, sources.now) for each in judged]
    lines = [line_of_verdict(each, sources.now, said) for each, said in zip(judged, alerts, strict=True)]
    return [line for line in lines if line.reason not in HEALTHY_REASONS or line.alert]


def count_unresolved(sweep: Sweep) -> int:
    """Return how many runs a sweep found not to be well and did not act on."""
    return max(0, sum(count for reason, count in sweep.counts.items() if reason not in HEALTHY_REASONS) - sweep.acted)


def recent_sweeps(using: str) -> list[Sweep]:
    """Return the last sweeps that did, refused or held something, newest first."""
    return list(Sweep.objects.using(using).filter(idle=False).order_by("-started_at", "-id")[:MAX_ROWS])


def time_buckets(databases: Sequence[str], now: datetime, length: timedelta, number: int) -> list[TimeBucket]:
    """Return the last hours or days, oldest first, each with what was done in it; the last one is not over yet."""
    truncated = TruncDay if length == DAY else TruncHour
    last = timezone.localtime(now).replace(minute=0, second=0, microsecond=0)
    last = last.replace(hour=0) if length == DAY else last
    begins = [last - length * back for back in reversed(range(number))]
    counts: dict[datetime, Counter[str]] = {begin: Counter() for begin in begins}
    slowest: dict[datetime, float] = {}
    for using in databases:
        done = LedgerEntry.objects.using(using).filter(created_at__gte=begins[0]).exclude(action=LedgerEntry.DISPATCH)
        grouped = done.order_by().annotate(begin=truncated("created_at")).values_list("begin", "reason")
        for begin, reason, count, longest in grouped.annotate(Count("pk"), Max("unattended_seconds")):
            if begin in counts:
                counts[begin][reason] += count
                if longest is not None:
                    slowest[begin] = max(longest, slowest.get(begin, 0.0))
    return [TimeBucket(begin, counts[begin], slowest.get(begin)) for begin in begins]
