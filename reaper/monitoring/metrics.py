"""What Prometheus scrapes: read from the database at each request, so it is right whichever process answers.

Labels are bounded: kinds, phases, reasons, modes and the like; never a run, a task, a worker or a queue.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

from django.db import router
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from reaper.adapters import RunAdapter
from reaper.conf import clock
from reaper.conf import settings as conf
from reaper.controls import modes as switches
from reaper.core.facts import Phase
from reaper.core.formatting import one_line
from reaper.core.policy import Mode
from reaper.core.reasons import HEALTHY_REASONS
from reaper.ledger import totals
from reaper.models import WorkerHeartbeat
from reaper.monitoring.health import CONDITIONS, health_of
from reaper.workers import registry as workers

logger = logging.getLogger(__name__)

PHASES = (Phase.QUEUED, Phase.RUNNING)
WORKERS = ("alive", "draining", "dead")


def exposition() -> bytes:
    """Return all metrics in Prometheus's text format.

    A kind that cannot be read lacks its figures, and `reaper_scrape_failed` is 1 for it. Raises django.db.Error when
    there is no database to ask.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Scrape())
    return generate_latest(registry)


class Scrape(Collector):
    """One reading of everything."""

    def __init__(self) -> None:
        # By name: prometheus_client has a class for each sort, and no common one that takes samples.
        self.families: dict[str, Any] = {}

    def collect(self) -> Iterable[Metric]:
        """Return the metric families with their samples."""
        self.workers()
        for using in dict.fromkeys(adapter.using for adapter in conf.adapters().values()):
            self.totals(using)
        for kind, adapter in conf.adapters().items():
            failed = [not self.read(reading, adapter) for reading in (self.runs, self.sweeps)]
            self.gauge("scrape_failed", "Whether a kind could not be read in this scrape.", any(failed), kind=kind)
        return self.families.values()

    def read(self, reading: Callable[[RunAdapter], None], adapter: RunAdapter) -> bool:
        """Read something of a kind; return whether that went well: one bad kind does not hide the others."""
        try:
            reading(adapter)
        except Exception as error:
            logger.warning("%s: no metrics: %s", adapter.kind, one_line(f"{type(error).__name__}: {error}"))
            return False
        return True

    def gauge(self, name: str, text: str, value: float | None, **labels: str) -> None:
        """Add a sample to a gauge; none when there is no value."""
        family = self.families.get(name) or GaugeMetricFamily(f"reaper_{name}", text, labels=list(labels))
        self.families[name] = family
        if value is not None:
            family.add_metric(list(labels.values()), float(value))

    def runs(self, adapter: RunAdapter) -> None:
        """Read the runs of a kind."""
        now, kind = clock.now(adapter.using), adapter.kind
        for phase in PHASES:
            summary = adapter.summarize(phase)
            age = max((run.age(now) or timedelta(0) for run in summary.oldest), default=timedelta(0))
            self.gauge("runs", "Unfinished runs.", summary.count, kind=kind, phase=phase)
            text = "Age of the oldest unfinished run."
            self.gauge("oldest_run_seconds", text, age.total_seconds(), kind=kind, phase=phase)

    def sweeps(self, adapter: RunAdapter) -> None:
        """Read how the sweeps of a kind are doing."""
        now, kind = clock.now(adapter.using), adapter.kind
        state = switches.state_of(adapter, now)
        for mode in Mode:
            self.gauge("mode", "Whether a kind is swept so.", state.mode is mode, kind=kind, mode=mode)
        for each in health_of(adapter, now):
            of = {"kind": kind, "phase": each.phase}
            for name in CONDITIONS:
                text = "Whether something is the matter with the sweeps (docs/ALERTS.md)."
                self.gauge("condition", text, name in each.conditions, condition=name, **of)
            good = None if each.last_good is None else (now - each.last_good).timestamp()
            self.gauge("last_good_sweep_timestamp_seconds", "When the last sweep without errors ended.", good, **of)
            if (last := each.last) and last.finished_at:
                took = (last.finished_at - last.started_at).total_seconds()
                ended = last.finished_at.timestamp()
                self.gauge("last_sweep_timestamp_seconds", "When the last sweep ended, well or not.", ended, **of)
                self.gauge("last_sweep_duration_seconds", "How long the last sweep took.", took, **of)
                suspects = sum(count for reason, count in last.counts.items() if reason not in HEALTHY_REASONS)
                self.gauge("suspects", "Runs that the last sweep did not find to be well.", suspects, **of)
                for reason, count in last.counts.items():
                    self.gauge("last_sweep_runs", "Runs of the last sweep, by verdict.", count, reason=reason, **of)

    def workers(self) -> None:
        """Read the workers' reports."""
        using = router.db_for_write(WorkerHeartbeat)
        now = clock.now(using)
        found = workers.load_workers(using, now)
        state = {"alive": 0, "draining": 0, "dead": 0}
        for each in found:
            state["dead" if not each.alive else "draining" if each.draining else "alive"] += 1
        for name in WORKERS:
            text = "Workers that report; the dead ones of about the last day."
            self.gauge("workers", text, state[name], state=name)
        offset = max((abs(each.skew.total_seconds()) for each in found if each.alive), default=0)
        self.gauge("worker_clock_offset_seconds", "The largest clock offset of a live worker.", offset)

    def totals(self, using: str) -> None:
        """Read what was counted since the beginning."""
        for name, make in FAMILIES.items():
            self.families.setdefault(name, make())
        buckets: dict[str, dict[str, totals.Counted]] = {}
        for (metric, kind, label), counted in totals.all_time_counts(using).items():
            if metric == totals.REAPINGS:
                action, _, reason = label.partition(" ")
                self.families[metric].add_metric([kind, action, reason], counted.number)
            elif metric == totals.REFUSED:
                self.families[metric].add_metric([kind, label], counted.number)
            elif metric == totals.RECOVERY:
                buckets.setdefault(kind, {})[label] = counted
        for kind, of in buckets.items():
            seconds = sum(each.seconds for each in of.values())
            self.families[totals.RECOVERY].add_metric([kind], list(cumulated(of)), seconds)


def cumulated(counted: dict[str, totals.Counted]) -> Iterator[tuple[str, float]]:
    """Yield each bound with how many took no longer."""
    so_far = 0
    for bound in totals.BUCKETS:
        so_far += counted.get(str(bound), totals.Counted()).number
        yield floatToGoString(bound), so_far
    yield totals.INF, so_far + counted.get(totals.INF, totals.Counted()).number


FAMILIES: dict[str, Callable[[], Metric]] = {
    totals.REAPINGS: lambda: CounterMetricFamily(
        "reaper_actions", "Runs and parents that were acted on.", labels=["kind", "action", "reason"]
    ),
    totals.REFUSED: lambda: CounterMetricFamily(
        "reaper_refused_writes", "Late writes of tasks that had lost their runs.", labels=["kind", "write"]
    ),
    totals.RECOVERY: lambda: HistogramMetricFamily(
        "reaper_recovery_seconds", "For how long nobody had worked on a run when it was acted on.", labels=["kind"]
    ),
}
