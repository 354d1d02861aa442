"""What the tests of the ledger share: entries, and the history that they make."""

from dataclasses import replace

from apps.sources.reaping import CrawlJobs
from reaper.core.facts import Phase, RunFacts
from reaper.ledger.history import with_history
from reaper.models import LedgerEntry
from tests.factories import NOW, SECOND

ADAPTER = CrawlJobs()


RUN = RunFacts(kind="crawl_job", pk="7", phase=Phase.QUEUED, status="pending", task_id="t1", queued_at=NOW)


def entry(action="requeue", phase="queued", new="", sent=False, by="", at=NOW, run="7", **fields):
    """One row of the ledger."""
    values = {"created_at": at, "kind": "crawl_job", "run_id": run, "phase": phase, "action": action, "reason": "lost"}
    values |= {"new_task_id": new, "published_at": at if sent else None, "actor": by}
    return LedgerEntry.objects.create(**values | fields)


def past(pk="7", adapter=ADAPTER):
    return with_history(adapter, [replace(RUN, pk=pk)])[0].history


SENT = {"sent": True, "new": "t2"}


LATER = NOW + SECOND
