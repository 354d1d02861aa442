"""What Prometheus scrapes: a cheap `Status` and the stored totals, read at each request.

Any process can answer, since all figures come from the database. Labels are bounded: kinds,
phases, reasons, modes and the like; never a run, a task, a worker or a queue.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from reaper.conf.settings import adapters
from reaper.core.policy import Mode
from reaper.ledger import totals
from reaper.reports.health import Condition, SweepHealth
from reaper.reports.status import Depth, KindStatus, Status, WorkerState, build_status, state_of_worker

logger = logging.getLogger(__name__)


def exposition() -> bytes:
    """Return all metrics in Prometheus's text format.

    A kind that cannot be read lacks figures, and `reaper_scrape_failed` is 1 for it. Raises `django.db.Error` when
    the database does not answer.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Scrape())
    return generate_latest(registry)


class Scrape(Collector):
    """One reading of everything."""

    def __init__(self) -> None:
        # By name: prometheus_client has a class for each type, and no common one that takes samples.
        self.families: dict[str, Any] = {}

    def collect(self) -> Iterable[Metric]:
        """Return the metric families with their samples."""
        status = build_status(adapters(), Depth.SWEEPS)
        self.add_workers(status)
        for using in dict.fromkeys(adapter.using for adapter in adapters().values()):
            self.add_totals(using)
        for kind in status.kinds:
            self.add_kind(kind, status)
        return self.families.values()

    def gauge(self, name: str, text: str, value: float | None, **labels: str) -> None:
        """Add a sample to a gauge; none when there is no value."""
        family = self.families.get(name) or GaugeMetricFamily(f"reaper_{name}", text, labels=list(labels))
        self.families[name] = family
        if value is not None:
            family.add_metric(list(labels.values()), float(value))

    def add_kind(self, kind: KindStatus, status: Status) -> None:
        """Add what could be read of a kind."""
        if kind.error:
            logger.warning("the metrics of %s are incomplete: %s", kind.kind, kind.error)
        name = kind.kind
        self.gauge("scrape_failed", "Whether a kind could not be read in this scrape.", bool(kind.error), kind=name)
        for phase, runs in kind.phases.items():
            age = runs.oldest.total_seconds() if runs.oldest else 0
            self.gauge("runs", "Unfinished runs.", runs.count, kind=name, phase=phase)
            self.gauge("oldest_run_seconds", "Age of the oldest unfinished run.", age, kind=name, phase=phase)
        for health in kind.sweeps:
            self.add_health(health, status)
        if kind.sweeps:
            for mode in Mode:
                is_set = kind.controls.mode is mode
                self.gauge("mode", "Whether this is the mode of a kind's sweeps.", is_set, kind=name, mode=mode)

    def add_health(self, health: SweepHealth, status: Status) -> None:
        """Add how the sweeps of one scope are doing."""
        scope = {"kind": health.kind, "phase": health.phase}
        for condition in Condition:
            text = "Whether the sweeps need attention (docs/ALERTS.md)."
            self.gauge("condition", text, condition in health.conditions, condition=condition, **scope)
        text = "When the last sweep without errors ended."
        success = None if health.since_success is None else (status.now - health.since_success).timestamp()
        self.gauge("last_success_timestamp_seconds", text, success, **scope)
        if not (last := health.last) or not last.finished_at:
            return
        ended = last.finished_at.timestamp()
        self.gauge("last_sweep_timestamp_seconds", "When the last sweep ended, with or without errors.", ended, **scope)
        took = (last.finished_at - last.started_at).total_seconds()
        self.gauge("last_sweep_duration_seconds", "How long the last sweep took.", took, **scope)
        text = "Runs that the last sweep found stuck or at risk and did not recover."
        self.gauge("stuck_runs", text, health.stuck_runs, **scope)
        for reason, count in last.counts.items():
            self.gauge("last_sweep_runs", "Runs of the last sweep, by reason.", count, reason=reason, **scope)

    def add_workers(self, status: Status) -> None:
        """Add the workers that report."""
        states = Counter(state_of_worker(each) for each in status.workers)
        for state in WorkerState:
            text = "Workers that reported within about the last day."
            self.gauge("workers", text, states[state], state=state)
        offset = max((abs(each.skew.total_seconds()) for each in status.workers if each.alive), default=0)
        self.gauge("worker_clock_offset_seconds", "The largest clock offset of a live worker.", offset)

    def add_totals(self, using: str) -> None:
        """Add what was counted since the beginning."""
        for name, make in FAMILIES.items():
            self.families.setdefault(name, make())
        recoveries: dict[str, dict[str, totals.Counted]] = {}
        for (metric, kind, label, reason), counted in totals.all_time_counts(using).items():
            if metric == totals.ACTIONS:
                self.families[metric].add_metric([kind, label, reason], counted.number)
            elif metric == totals.REFUSED:
                self.families[metric].add_metric([kind, label], counted.number)
            elif metric == totals.RECOVERY:
                recoveries.setdefault(kind, {})[label] = counted
        for kind, by_bound in recoveries.items():
            seconds = sum(each.seconds for each in by_bound.values())
            self.families[totals.RECOVERY].add_metric([kind], list(cumulate(by_bound)), seconds)


def cumulate(counted: Mapping[str, totals.Counted]) -> Iterator[tuple[str, float]]:
    """Yield each upper bound with how many recoveries took no longer."""
    so_far = 0
    for bound in totals.BUCKETS:
        so_far += counted.get(str(bound), totals.Counted()).number
        yield floatToGoString(bound), so_far
    yield totals.INF, so_far + counted.get(totals.INF, totals.Counted()).number


FAMILIES: dict[str, Callable[[], Metric]] = {
    totals.ACTIONS: lambda: CounterMetricFamily(
        "reaper_actions", "Runs and parents that were acted on.", labels=["kind", "action", "reason"]
    ),
    totals.REFUSED: lambda: CounterMetricFamily(
        "reaper_rejected_writes", "Late writes of tasks that had lost their runs.", labels=["kind", "write"]
    ),
    totals.RECOVERY: lambda: HistogramMetricFamily(
        "reaper_recovery_seconds", "How long nobody had worked on a run when it was acted on.", labels=["kind"]
    ),
}
