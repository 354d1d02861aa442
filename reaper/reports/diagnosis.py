"""What people are told, before it is printed or shown: every run is one `Line`, whatever is done with it."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

from django.db.models import F

from reaper.adapters import RunAdapter
from reaper.broker.connection import Broker
from reaper.conf import clock
from reaper.controls import overrides as policies
from reaper.core.decisions import alert_for
from reaper.core.explain import evidence_in_words
from reaper.core.facts import NO_EVIDENCE, Phase, RunFacts
from reaper.core.policy import Action, Policy, SweepScope
from reaper.core.reasons import Reason
from reaper.core.serialization import evidence_from_json, to_dict
from reaper.db.pagination import PAGE
from reaper.evidence.collector import EvidenceCollector
from reaper.ledger import records as ledger
from reaper.models import LedgerEntry, RefusedWrite, Sweep
from reaper.monitoring.health import Health, health_of
from reaper.signals import reaped
from reaper.sweeps import sweep as sweeps
from reaper.sweeps.sweep import Verdict

# What `explain` tells of a run's past.
HISTORY = 100
STAMPS = ("created_at", "queued_at", "started_at", "progress_at")


class RunLine(NamedTuple):
    """One run, or one parent, and what was or would be done with it."""

    kind: str
    id: str
    phase: str
    action: str
    reason: str
    age: timedelta | None = None
    alert: str = ""
    # In words, and as it was recorded or found.
    known: str = ""
    evidence: Mapping[str, Any] = {}

    def as_json(self) -> dict[str, Any]:
        """Return the line as the JSON of every subcommand has it."""
        return {
            "kind": self.kind,
            "id": self.id,
            "phase": self.phase,
            "action": self.action,
            "reason": self.reason,
            "age_s": None if self.age is None else int(self.age.total_seconds()),
            "evidence": dict(self.evidence),
            "known": self.known,
            **({"alert": self.alert} if self.alert else {}),
        }


Show = Callable[[list[RunLine]], Any]
# Told how many runs were dealt with since the last time.
Done = Callable[[int], Any]


def ignore_progress(number: int) -> None:
    """Show no progress."""


def line_of_verdict(verdict: Verdict, now: datetime, alert: str = "") -> RunLine:
    """Return the line of a run that was judged."""
    run, decision, evidence = verdict
    known = "" if evidence is NO_EVIDENCE else evidence_in_words(run, evidence, now)
    facts = {} if evidence is NO_EVIDENCE else to_dict(evidence)
    return RunLine(run.kind, run.pk, run.phase, decision.action, decision.reason, run.age(now), alert, known, facts)


def line_of_parent(adapter: RunAdapter, parent: str) -> RunLine:
    """Return the line of a parent that waits for its outcome. Parents are no runs: their kind says so."""
    return RunLine(f"{adapter.kind}.parent", parent, SweepScope.PARENTS, LedgerEntry.FINALIZE, Reason.CHILDREN_ENDED)


def line_of_entry(row: LedgerEntry) -> RunLine:
    """Return the line of a run that was acted on, with the age that it had then."""
    if row.action == LedgerEntry.FINALIZE:
        return RunLine(row.kind, row.run_id, SweepScope.PARENTS, row.action, row.reason)
    stamps: dict[str, Any] = {name: datetime.fromisoformat(row.facts[name]) for name in STAMPS if row.facts.get(name)}
    run = RunFacts(kind=row.kind, pk=row.run_id, phase=Phase(row.phase), **stamps)
    evidence = to_dict(evidence_from_json(row.evidence))
    return RunLine(row.kind, row.run_id, row.phase, row.action, row.reason, run.age(row.created_at), evidence=evidence)


def sweep_and_list(adapter: RunAdapter, phase: str, show: Show, done: Done = ignore_progress) -> Sweep:
    """Sweep one kind and phase, show what was acted on, and return the sweep."""

    def count(sender: Any, **_: Any) -> None:
        done(1)

    reaped.connect(count, sender=type(adapter))
    try:
        row = sweeps.finalize_parents(adapter) if phase == SweepScope.PARENTS else sweeps.sweep(adapter, Phase(phase))
    finally:
        reaped.disconnect(count, sender=type(adapter))
    rows = LedgerEntry.objects.using(adapter.using).filter(sweep=row).order_by("id")
    for page in paged(line_of_entry(each) for each in rows):
        show(page)
    return row


def dry_run(adapter: RunAdapter, phase: str, show: Show, done: Done = ignore_progress) -> Sweep:
    """Show what a sweep of one kind and phase would act on; return the sweep it would be. Writes nothing."""
    now = clock.now(adapter.using)
    row = Sweep(kind=adapter.kind, phase=phase, started_at=now, counts={})
    if phase == SweepScope.PARENTS:
        for page in paged(line_of_parent(adapter, parent) for parent in adapter.iter_finalizable_parents()):
            row.scanned = row.finalized = row.scanned + len(page)
            show(page)
        return row
    reaping = 0
    with Broker() as broker:
        sources = EvidenceCollector(adapter, broker, policies.effective_policy(adapter), now)
        for verdicts in sweeps.plan(adapter, Phase(phase), sources):
            lines = [line_of_verdict(each, now) for each in verdicts]
            acting = [line for line in lines if line.action != Action.LEAVE]
            row.scanned, row.acted = row.scanned + len(lines), row.acted + len(acting)
            row.counts = Counter(row.counts) + Counter(line.reason for line in lines)
            reaping += sum(line.action in (Action.FAIL, Action.REQUEUE) for line in acting)
            show(acting)
            done(len(lines))
        brakes = (
            sweeps.silence_hold(row.counts, sources),
            sweeps.volume_hold(adapter, phase, reaping, row.scanned, now),
        )
    row.errors = [sentence for sentence in brakes if sentence]
    return row


def paged(lines: Iterator[RunLine]) -> Iterator[list[RunLine]]:
    """Yield the lines in pages."""
    while page := list(islice(lines, PAGE)):
        yield page


class CappedList:
    """Lines, of which only the first `limit` are kept."""

    def __init__(self, limit: int | None) -> None:
        self.limit, self.total, self.lines = limit, 0, list[RunLine]()

    def add(self, line: RunLine) -> None:
        """Count one more line, and keep it while there is room."""
        self.total += 1
        if self.limit is None or len(self.lines) < self.limit:
            self.lines.append(line)


@dataclass
class Diagnosis:
    """What would happen now: what would be acted on, what is worth a look, the rest by reason, and the sweeps."""

    acting: CappedList
    alerts: CappedList
    parents: CappedList
    left: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    sweeps: list[Health] = field(default_factory=list)

    def add(self, other: "Diagnosis") -> None:
        """Add what was found of another kind."""
        for mine, others in ((self.acting, other.acting), (self.alerts, other.alerts)):
            room = None if mine.limit is None else max(0, mine.limit - len(mine.lines))
            mine.lines += others.lines[:room]
            mine.total += others.total
        self.left += other.left
        self.counts += other.counts

    @property
    def overdue(self) -> int:
        """Return how many kinds and phases are not being swept."""
        return sum(health.overdue for health in self.sweeps)

    @property
    def well(self) -> bool:
        """True when nothing is stuck and every sweep is on time. A run worth a look is not stuck yet."""
        return not (self.acting.total or self.parents.total or self.overdue)


def diagnose(adapters: Mapping[str, RunAdapter], limit: int | None = None, done: Done = ignore_progress) -> Diagnosis:
    """Return what would happen now, with at most `limit` lines of each sort. Reads only; `done` hears of each page."""
    found = Diagnosis(CappedList(limit), CappedList(limit), CappedList(limit))
    for adapter in adapters.values():
        judged, now = preview(adapter, policies.effective_policy(adapter), limit, done), clock.now(adapter.using)
        found.add(judged)
        for parent in adapter.iter_finalizable_parents():
            found.parents.add(line_of_parent(adapter, parent))
            found.counts[Reason.CHILDREN_ENDED] += 1
        found.sweeps += health_of(adapter, now)
    return found


def preview(adapter: RunAdapter, policy: Policy, limit: int | None = None, done: Done = ignore_progress) -> Diagnosis:
    """Return what the next sweeps would do with the runs of this moment, were these the thresholds. Reads only."""
    found, now = Diagnosis(CappedList(limit), CappedList(limit), CappedList(limit)), clock.now(adapter.using)
    with Broker() as broker:
        sources = EvidenceCollector(adapter, broker, policy, now)
        for phase in (Phase.RUNNING, Phase.QUEUED):
            for page in sweeps.plan(adapter, phase, sources):
                for verdict in page:
                    classify(found, verdict, policy, now)
                done(len(page))
    return found


def classify(found: Diagnosis, verdict: Verdict, policy: Policy, now: datetime) -> None:
    """Put one verdict where it belongs."""
    line = line_of_verdict(verdict, now, alert_for(verdict.run, policy, now))
    found.counts[line.reason] += 1
    if line.action != Action.LEAVE:
        found.acting.add(line)
        return
    found.left[line.reason] += 1
    if line.alert:
        found.alerts.add(line)


def history(adapter: RunAdapter, pk: str) -> list[dict[str, Any]]:
    """Return what happened to a run before, newest first: what was done to it, and late writes that were refused."""
    names = ("created_at", "action", "reason", "actor", "message", "task_id", "new_task_id", "published_at")
    rows = ledger.entries_of_run(adapter, pk)
    done: list[dict[str, Any]] = list(rows.values(*names, revoked_at=F("sweep__revoked_at"))[:HISTORY])
    refused = RefusedWrite.objects.using(adapter.using).filter(kind=adapter.kind, run_id=pk).order_by("-id")
    for row in refused.values("created_at", "write", "task_id", "worker")[:HISTORY]:
        done.append({"action": "refused", **row})
    return sorted(done, key=lambda event: event["created_at"], reverse=True)[:HISTORY]


def state_token(run: RunFacts) -> str:
    """Return a word for what a person saw of a run: with another status, task or start it is another one.

    Progress is no part of it: who ends a run that goes on and on must not have to be quicker than its next step.
    """
    facts = (run.status, run.task_id, run.started_at and run.started_at.isoformat())
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def timeline(adapter: RunAdapter, run: RunFacts) -> list[tuple[datetime, str]]:
    """Return what happened to a run, newest first: what its row says, and what the records say."""
    task = f" as task {run.task_id}" if run.task_id else ""
    of_row = [
        # The latest first: of two at the same moment the order stays.
        (run.progress_at, "Made its last progress."),
        (run.started_at, f"Claimed by {run.worker or 'a worker'}."),
        (run.queued_at, f"Dispatched{task}."),
        (run.created_at, "Created."),
    ]
    events = [(at, said) for at, said in of_row if at] + [
        (each["created_at"], describe_event(each)) for each in history(adapter, run.pk)
    ]
    return sorted(events, key=lambda event: event[0], reverse=True)


def describe_event(event: Mapping[str, Any]) -> str:
    """Return one event of a run's past as a sentence."""
    if event["action"] == "refused":
        worker = f" on {event['worker']}" if event["worker"] else ""
        return f"Refused a late {event['write']} of task {event['task_id'] or '(none)'}{worker}."
    if event["message"]:
        return event["message"] + task_change(event)
    return f"{event['action'].capitalize()} {event['actor'] or 'by the reaper'}.{task_change(event)}"


def task_change(event: Mapping[str, Any]) -> str:
    """Return which task took the place of which, and what the broker has not taken yet."""
    said = []
    if event["task_id"]:
        said.append(f"old task {event['task_id']}{' (its revoke is not sent yet)' * (event['revoked_at'] is None)}")
    if event["new_task_id"]:
        unsent = " (not published yet)" * (event["published_at"] is None)
        said.append(f"new task {event['new_task_id']}{unsent}")
    return f" [{', '.join(said)}]" if said else ""
