"""A sweep with a list of the runs that it acted on, or, as a dry run, would act on."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from reaper.adapters import RunAdapter
from reaper.broker.connection import Broker
from reaper.conf import clock
from reaper.controls.overrides import effective_policy
from reaper.core.facts import Phase
from reaper.core.policy import Action, SweepScope
from reaper.db.pagination import PAGE
from reaper.evidence.collector import EvidenceCollector
from reaper.models import LedgerEntry, Sweep
from reaper.reports.judged import OnProgress, ignore_progress
from reaper.reports.run_lines import RunLine, line_of_entry, line_of_parent, line_of_verdict
from reaper.signals import reaped
from reaper.sweeps.holds import find_silence_hold, find_volume_hold
from reaper.sweeps.judging import judge_phase
from reaper.sweeps.parents import finalize_parents
from reaper.sweeps.sweep import sweep

# Called with each page of lines.
ShowPage = Callable[[list[RunLine]], Any]


def sweep_and_list(adapter: RunAdapter, phase: str, show: ShowPage, on_progress: OnProgress = ignore_progress) -> Sweep:
    """Sweep one kind and scope, show what was acted on, and return the sweep."""

    def count_one(sender: Any, **_: Any) -> None:
        on_progress(1)

    reaped.connect(count_one, sender=type(adapter))
    try:
        row = finalize_parents(adapter) if phase == SweepScope.PARENTS else sweep(adapter, Phase(phase))
    finally:
        reaped.disconnect(count_one, sender=type(adapter))
    rows = LedgerEntry.objects.using(adapter.using).filter(sweep=row).order_by("id")
    for page in pages_of(line_of_entry(each) for each in rows):
        show(page)
    return row


def judge_and_list(adapter: RunAdapter, phase: str, show: ShowPage, on_progress: OnProgress = ignore_progress) -> Sweep:
    """Show what a sweep of one kind and scope would act on; return the sweep, unsaved. Writes nothing."""
    now = clock.now(adapter.using)
    row = Sweep(kind=adapter.kind, phase=phase, started_at=now, counts={})
    if phase == SweepScope.PARENTS:
        for page in pages_of(line_of_parent(adapter, parent) for parent in adapter.iter_finalizable_parents()):
            row.scanned += len(page)
            row.finalized += len(page)
            show(page)
        return row
    to_end = 0
    with Broker() as broker:
        collector = EvidenceCollector(adapter, broker, effective_policy(adapter), now)
        for verdicts in judge_phase(adapter, Phase(phase), collector):
            lines = [line_of_verdict(each, now) for each in verdicts]
            acting = [line for line in lines if line.action != Action.LEAVE]
            row.scanned += len(lines)
            row.acted += len(acting)
            row.counts = Counter(row.counts) + Counter(line.reason for line in lines)
            to_end += sum(line.action in (Action.FAIL, Action.REQUEUE) for line in acting)
            show(acting)
            on_progress(len(lines))
        holds = (
            find_silence_hold(row.counts, collector),
            find_volume_hold(adapter, phase, to_end, row.scanned, now),
        )
    row.errors = [hold.as_json() for hold in holds if hold]
    return row


def pages_of(lines: Iterator[RunLine]) -> Iterator[list[RunLine]]:
    """Yield the lines in pages."""
    while page := list(islice(lines, PAGE)):
        yield page
