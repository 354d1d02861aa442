"""The unfinished runs of a kind as the rules judge them now, sorted into what an operator needs to know.

Input: pages of runs and an `EvidenceCollector`. Output: `JudgedRuns`. Nothing is written.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from reaper.adapters import RunAdapter
from reaper.broker.connection import Broker
from reaper.conf import clock
from reaper.core.decisions import alert_for
from reaper.core.facts import UNFINISHED_PHASES
from reaper.core.policy import Action, Policy
from reaper.core.reasons import HEALTHY_REASONS
from reaper.evidence.collector import EvidenceCollector
from reaper.reports.run_lines import CappedList, RunLine, line_of_verdict
from reaper.sweeps.judging import Verdict, judge_phase

# Called with the number of runs judged since the last call.
OnProgress = Callable[[int], Any]


def ignore_progress(number: int) -> None:
    """Show no progress."""


@dataclass
class JudgedRuns:
    """Judged runs: a run is in one of the three lists, or healthy and only counted."""

    acting: CappedList
    """Stuck: the next sweep acts on them, the mode and the brake permitting."""
    undecided: CappedList
    """Stuck or at risk, but nothing is done yet, for example for lack of evidence."""
    late: CappedList
    """Not stuck, but running or waiting for longer than an alert's limit."""
    reasons: Counter[str] = field(default_factory=Counter)
    """How many of all judged runs, the healthy ones included, by reason."""

    @classmethod
    def empty(cls, limit: int | None = None) -> "JudgedRuns":
        """Return one without runs, whose lists keep `limit` lines each (None: all)."""
        return cls(CappedList(limit), CappedList(limit), CappedList(limit))

    @property
    def stuck(self) -> int:
        """Return how many runs are stuck: those whose reason is not a healthy one."""
        return self.acting.total + self.undecided.total

    @property
    def lines(self) -> Sequence[RunLine]:
        """Return the kept lines of all three lists."""
        return [*self.acting.lines, *self.undecided.lines, *self.late.lines]

    def add(self, verdict: Verdict, collector: EvidenceCollector) -> None:
        """Put one verdict where it belongs."""
        self.reasons[verdict.decision.reason] += 1
        alert = alert_for(verdict.run, collector.policy, collector.now)
        is_stuck = verdict.decision.reason not in HEALTHY_REASONS
        if not (is_stuck or alert):
            return
        line = line_of_verdict(verdict, collector.now, alert)
        if not is_stuck:
            self.late.add(line)
        elif line.action == Action.LEAVE:
            self.undecided.add(line)
        else:
            self.acting.add(line)


def judge_unfinished(
    collector: EvidenceCollector, limit: int | None = None, on_progress: OnProgress = ignore_progress
) -> JudgedRuns:
    """Judge every unfinished run of the collector's kind; keep `limit` lines per list (None: all)."""
    return sort_verdicts(
        (page for phase in UNFINISHED_PHASES for page in judge_phase(collector.adapter, phase, collector)),
        collector,
        limit,
        on_progress,
    )


def sort_verdicts(
    pages: Iterable[Sequence[Verdict]],
    collector: EvidenceCollector,
    limit: int | None = None,
    on_progress: OnProgress = ignore_progress,
) -> JudgedRuns:
    """Return verdicts sorted into the lists; `on_progress` is called after each page."""
    found = JudgedRuns.empty(limit)
    for page in pages:
        for verdict in page:
            found.add(verdict, collector)
        on_progress(len(page))
    return found


def preview_policy(adapter: RunAdapter, policy: Policy, limit: int | None = None) -> JudgedRuns:
    """Return what the next sweeps would do with the runs of this moment under another policy."""
    with Broker() as broker:
        return judge_unfinished(EvidenceCollector(adapter, broker, policy, clock.now(adapter.using)), limit)
