"""First step of a sweep: (adapter, phase) -> pages of `RunFacts` that carry their history and exemption."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from reaper.adapters import RunAdapter
from reaper.controls.exemptions import exempt_ids
from reaper.core.facts import Phase, RunFacts
from reaper.ledger.history import with_history


def iter_candidates(adapter: RunAdapter, phase: Phase, now: datetime) -> Iterator[list[RunFacts]]:
    """Yield every unfinished run of a phase, oldest first, in the adapter's pages. Reads only."""
    for page in adapter.iter_unfinished(phase):
        yield add_context(adapter, page, now)


def add_context(adapter: RunAdapter, runs: Sequence[RunFacts], now: datetime) -> list[RunFacts]:
    """Return the runs, in their order, with their history from the ledger and their exemption: two queries."""
    known = with_history(adapter, runs)
    exempt = exempt_ids(adapter, [run.pk for run in known], now)
    return [replace(run, exempt=run.pk in exempt) for run in known] if exempt else known
