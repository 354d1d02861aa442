"""A run together with the evidence on it."""

from typing import NamedTuple, Protocol

from reaper.core.decisions import Decision
from reaper.core.facts import Evidence, RunFacts


class HasEvidence(Protocol):
    """Anything that carries a run and the evidence on it."""

    @property
    def run(self) -> RunFacts:
        """Return the run."""

    @property
    def evidence(self) -> Evidence:
        """Return the evidence."""


class Finding(NamedTuple):
    """One run with the evidence on it."""

    run: RunFacts
    """The run; its `skew` is that of the worker that claimed it, where there is a heartbeat of it."""
    evidence: Evidence
    """What is known of its task; `NO_EVIDENCE` where nothing was collected."""
    decision: Decision | None = None
    """What would follow from them, where that may rest on the task's absence; None elsewhere."""
