"""A run as people see it in a list: one `RunLine`, whether it was judged just now or recovered a while ago."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from reaper.adapters import RunAdapter
from reaper.core.explain import describe_evidence
from reaper.core.facts import NO_EVIDENCE, Phase, RunFacts
from reaper.core.policy import Action, SweepScope
from reaper.core.reasons import Reason
from reaper.core.serialization import evidence_from_json, to_dict
from reaper.ledger.manual import parent_kind
from reaper.models import LedgerEntry
from reaper.sweeps.judging import Verdict

# The timestamps among the facts of a ledger entry, from which a run's age follows.
TIMESTAMPS = ("created_at", "queued_at", "started_at", "progress_at")

# The label of each reason, and of the alert of a run that is only late.
LABELS = {
    **{str(each): each.label for each in Reason},
    "long_running": "Running unusually long",
    "backlog": "Waiting unusually long",
}


class RunLine(NamedTuple):
    """One run, or one parent, and what was or would be done with it."""

    kind: str
    id: str
    phase: str
    """running, queued or, for a parent, parents."""
    action: str
    reason: str
    age: timedelta | None = None
    """How long it has been in its phase; None without a usable timestamp."""
    alert: str = ""
    """The alert that it is part of, such as long_running; '' for none."""
    evidence_text: str = ""
    """The evidence in words; '' when there is none."""
    evidence: Mapping[str, Any] = {}
    """The evidence as the ledger records it."""

    @property
    def reason_text(self) -> str:
        """Return why, as people read it: "Worker lost (orphaned)"; for a run that is only late, the alert."""
        code = self.alert if self.alert and self.action == Action.LEAVE else self.reason
        label = LABELS.get(code)
        return f"{label} ({code})" if label else code


class CappedList:
    """A list of lines that keeps the first `limit` (None: all) and counts the rest."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.total = 0
        self.lines: list[RunLine] = []

    def add(self, line: RunLine) -> None:
        """Count a line, and keep it while there is room."""
        self.total += 1
        if self.limit is None or len(self.lines) < self.limit:
            self.lines.append(line)


def line_of_verdict(verdict: Verdict, now: datetime, alert: str = "") -> RunLine:
    """Return the line of a run that was judged."""
    run, decision, evidence = verdict
    is_known = evidence is not NO_EVIDENCE
    return RunLine(
        kind=run.kind,
        id=run.pk,
        phase=run.phase,
        action=decision.action,
        reason=decision.reason,
        age=run.age(now),
        alert=alert,
        evidence_text=describe_evidence(run, evidence, now) if is_known else "",
        evidence=to_dict(evidence) if is_known else {},
    )


def line_of_parent(adapter: RunAdapter, parent: str) -> RunLine:
    """Return the line of a parent that waits to be completed. Parents are not runs, which their kind shows."""
    return RunLine(
        kind=parent_kind(adapter),
        id=parent,
        phase=SweepScope.PARENTS,
        action=LedgerEntry.FINALIZE,
        reason=Reason.CHILDREN_ENDED,
    )


def line_of_entry(row: LedgerEntry) -> RunLine:
    """Return the line of a ledger entry, with the run's age at that time."""
    if row.action == LedgerEntry.FINALIZE:
        return RunLine(row.kind, row.run_id, SweepScope.PARENTS, row.action, row.reason)
    stamps: dict[str, Any] = {
        name: datetime.fromisoformat(row.facts[name]) for name in TIMESTAMPS if row.facts.get(name)
    }
    run = RunFacts(kind=row.kind, pk=row.run_id, phase=Phase(row.phase), **stamps)
    return RunLine(
        kind=row.kind,
        id=row.run_id,
        phase=row.phase,
        action=row.action,
        reason=row.reason,
        age=run.age(row.created_at),
        evidence=to_dict(evidence_from_json(row.evidence)),
    )
