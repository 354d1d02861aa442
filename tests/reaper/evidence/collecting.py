"""Collecting evidence and sweeping at a fixed time, for the tests of this folder."""

from freezegun import freeze_time

from reaper.broker.connection import Broker
from reaper.broker.snapshot import QueueSnapshot
from reaper.conf import settings as conf
from reaper.evidence import sources
from reaper.evidence.collector import EvidenceCollector
from reaper.sweeps.sweep import sweep as sweep_phase
from tests.factories import NOW

WITNESS = "celery@crawl-witness/abc"
WITNESS_NODE, HOLDER_NODE = "celery@crawl-witness", "celery@w1"


def sweep(phase, at=NOW):
    """Sweep the crawl jobs at that time; return the `Sweep`."""
    with freeze_time(at):
        return sweep_phase(conf.adapters()["crawl_job"], phase)


def gather(*rows, at=NOW):
    """Return the evidence on the run of each row."""
    adapter = conf.adapters()["crawl_job"]
    with freeze_time(at), Broker() as link:
        collector = EvidenceCollector(adapter, link, conf.policy(adapter), at)
        return [found.evidence for found in collector.gather([adapter.get(str(row.pk)) for row in rows])]


def scan_finds(monkeypatch, **found):
    """Have every scan of the queues return this `QueueSnapshot`."""
    monkeypatch.setattr(sources, "scan_queues", lambda link, queues, seconds: QueueSnapshot(**found))
