"""What the tests of sweeps share: one sweep at a time of the test's own, and the states that they begin with."""

from contextlib import contextmanager

import pytest
from django.core import serializers
from django.db import connection
from freezegun import freeze_time
from freezegun.api import real_monotonic

from apps.sources.models import CrawlJob, CrawlJobSourceResult, Source
from reaper.conf import settings as conf
from reaper.core.facts import Phase
from reaper.models import LedgerEntry, MessageSighting, RefusedWrite, Sweep, WorkerHeartbeat
from reaper.sweeps import manual, parents
from reaper.sweeps.sweep import sweep as sweep_phase
from tests.factories import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    earlier_sighting,
    held_job,
    keep_reporting,
    lost_job,
    orphan,
    parent,
    queued_job,
    running_job,
)

# Beyond the grace that a message has; beyond every backoff.
LOST, LATER = 31 * SECOND, 10 * MINUTE


on_postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="needs connections that do not wait")


def sweep(kind="crawl_job", phase=Phase.RUNNING, at=NOW, tick=False):
    """One sweep at this time, until which the workers have reported; `kind` may be an adapter of the test's own."""
    keep_reporting(at)
    adapter = conf.adapters()[kind] if isinstance(kind, str) else kind
    with freeze_time(at, tick=tick):
        return sweep_phase(adapter, phase)


def sweep_queued(kind="crawl_job", **more):
    return sweep(kind, Phase.QUEUED, **more)


def finalize_parents(at=NOW):
    with freeze_time(at):
        return parents.finalize_parents(conf.adapters()["source_result"])


def start(row, at):
    """A worker takes a queued run."""
    type(row).objects.filter(pk=row.pk).update(status="running", started_at=at, worker="celery@w1/abc")


def lose(broker, *rows, at, queue="crawl"):
    """All messages of the queue are lost, and a sweep shortly before this time noticed that of these rows."""
    broker.client.delete(queue)
    for row in rows:
        earlier_sighting(row, at)


def unsent_job(ago=LOST, **fields):
    """A job that was never sent."""
    return queued_job(ago, task_id="", **fields)


def requeues(row):
    return LedgerEntry.objects.filter(run_id=str(row.pk), action="requeue").count()


@contextmanager
def within(seconds):
    begin = real_monotonic()
    yield
    took = real_monotonic() - begin
    assert took <= seconds, f"took {took:.1f} s"


@contextmanager
def connected(signal, receiver):
    signal.connect(receiver)
    try:
        yield
    finally:
        signal.disconnect(receiver)


def everything():
    models = (
        Source,
        CrawlJob,
        CrawlJobSourceResult,
        Sweep,
        LedgerEntry,
        RefusedWrite,
        MessageSighting,
        WorkerHeartbeat,
    )
    return [serializers.serialize("json", model.objects.order_by("pk")) for model in models]


def act_manually(kind, row, action, actor="ada"):
    """A person fails or requeues a run; what came of it."""
    adapter = conf.adapters()[kind]
    run = adapter.get(str(row.pk))
    with freeze_time(NOW):
        return manual.act_on_run(adapter, run, action, actor)


def refuse_ledger_rows(of=""):
    """From now on the database itself refuses the ledger rows of one run, or all."""
    named = f"NEW.run_id = '{of}'" if of else "TRUE"
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "CREATE FUNCTION refuse_reaping() RETURNS trigger LANGUAGE plpgsql AS"
                f" $$ BEGIN IF {named} THEN RAISE EXCEPTION 'no ledger'; END IF; RETURN NEW; END $$"
            )
            cursor.execute(
                "CREATE TRIGGER refuse_reaping BEFORE INSERT ON reaper_ledgerentry"
                " FOR EACH ROW EXECUTE FUNCTION refuse_reaping()"
            )
        else:
            cursor.execute(
                f"CREATE TRIGGER refuse_reaping BEFORE INSERT ON reaper_ledgerentry WHEN {named}"
                " BEGIN SELECT RAISE(ABORT, 'no ledger'); END"
            )


def host():
    """All rows of the host, as they are."""
    return [list(model.objects.order_by("pk").values()) for model in (CrawlJob, CrawlJobSourceResult)]


def world():
    """One run of each sort that is acted on, and some that are not."""
    job = parent("running", status="completed", finalized_at=NOW)
    return [running_job(2 * HOUR), orphan(), lost_job(), unsent_job(), held_job(MINUTE, worker="celery@w3/abc"), job]


def sweep_everything(at=NOW):
    return [sweep(kind, phase, at) for kind in conf.adapters() for phase in (Phase.RUNNING, Phase.QUEUED)]
