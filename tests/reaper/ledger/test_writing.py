"""The entries of a batch: one statement, every value in its column."""

from dataclasses import replace
from datetime import timedelta

import pytest
from freezegun import freeze_time

from reaper.adapters import RunUpdate
from reaper.conf import settings as conf
from reaper.core.decisions import Decision, decide
from reaper.core.facts import Evidence, Liveness, Phase
from reaper.core.policy import Action
from reaper.core.reasons import Reason
from reaper.core.serialization import evidence_from_json, facts_from_json, to_compact
from reaper.ledger.writing import record_updates
from reaper.models import LedgerEntry, Sweep, WorkerHeartbeat
from reaper.sweeps.sweep import sweep
from reaper.workers.timing import DEAD_AFTER
from tests.factories import HOUR, MINUTE, NOW, SECOND, queued_job, running_job
from tests.reaper.ledger.entries import ADAPTER, RUN

pytestmark = pytest.mark.django_db


def report(hostname, silent=timedelta(0), **fields):
    """The last report of a worker that has been silent for this long."""
    at = NOW - silent
    values = {"seen_at": at, "listed_at": at, "since": NOW - HOUR, "queues": ["crawl", "default"]}
    return WorkerHeartbeat.objects.create(hostname=hostname, incarnation="abc", **values | fields)


def test_entry_has_every_column_of_its_update():
    sweep = Sweep.objects.create(kind="crawl_job", phase="queued", started_at=NOW)
    decision = Decision(Action.REQUEUE, Reason.LOST)
    change = RunUpdate(replace(RUN, task_id=None), decision, "Because.", "t2", Evidence(queue="crawl"))
    record_updates(ADAPTER, [change], NOW, sweep, "ada")
    row = LedgerEntry.objects.get()
    assert row.sweep == sweep
    assert row.created_at == NOW
    assert row.kind == "crawl_job"
    assert row.run_id == "7"
    assert row.phase == "queued"
    assert row.task_id == ""
    assert row.new_task_id == "t2"
    assert row.message == "Because."
    assert row.actor == "ada"
    assert row.action == "requeue"
    assert row.reason == "lost"
    assert row.published_at is None
    assert not row.owes_revoke
    assert not row.terminate
    assert not row.exhausted
    assert not row.interrupted
    assert row.facts == to_compact(change.run)
    assert set(row.facts) == {"kind", "pk", "phase", "status", "task_id", "queued_at"}
    assert row.evidence == {"queue": "crawl"}


def test_each_part_of_decision_has_its_own_column():
    sweep = Sweep.objects.create(kind="crawl_job", phase="running", started_at=NOW)
    flags = [(True, False, False), (False, True, False), (False, False, True)]
    decisions = [Decision(Action.FAIL, Reason.STALLED, *each) for each in flags]
    record_updates(ADAPTER, [RunUpdate(RUN, each, "") for each in decisions], NOW, sweep, "")
    kept = LedgerEntry.objects.order_by("id").values_list("terminate", "exhausted", "interrupted")
    assert list(kept) == flags


def test_entries_of_one_batch_keep_their_own_values():
    """What differs and what is the same for all is written in different ways."""
    sweep = Sweep.objects.create(kind="crawl_job", phase="queued", started_at=NOW)
    fail, requeue = Decision(Action.FAIL, Reason.STALLED, terminate=True), Decision(Action.REQUEUE, Reason.LOST)
    dead = Evidence(claimant_liveness=Liveness.DEAD, uncertainties=('it\'s 100 %s \\ "doubtful"',))
    changes = [
        RunUpdate(replace(RUN, pk="1", queued_at=None), requeue, "100 %s", "t2"),
        RunUpdate(replace(RUN, pk="2", phase=Phase.RUNNING, task_id=None), fail, "it's\n\\x", "", dead),
        RunUpdate(replace(RUN, pk="3", task_id="", worker='"w"'), fail, "", "", dead),
    ]
    record_updates(ADAPTER, changes, NOW + SECOND, sweep, "ada")
    kept = LedgerEntry.objects.order_by("id")
    assert [(row.run_id, row.phase, row.action, row.terminate) for row in kept] == [
        ("1", "queued", "requeue", False),
        ("2", "running", "fail", True),
        ("3", "queued", "fail", True),
    ]
    assert [(row.task_id, row.new_task_id, row.message) for row in kept] == [
        ("t1", "t2", "100 %s"),
        ("", "", "it's\n\\x"),
        ("", "", ""),
    ]
    assert [row.unattended_seconds for row in kept] == [None, 1.0, 1.0]
    assert [facts_from_json(row.facts) for row in kept] == [change.run for change in changes]
    assert [evidence_from_json(row.evidence) for row in kept] == [change.evidence for change in changes]
    assert {(row.sweep, row.created_at, row.kind, row.actor) for row in kept} == {
        (sweep, NOW + SECOND, "crawl_job", "ada")
    }


def test_equal_updates_are_written_as_often_as_given():
    sweep = Sweep.objects.create(kind="crawl_job", phase="queued", started_at=NOW)
    record_updates(ADAPTER, [RunUpdate(RUN, Decision(Action.REQUEUE, Reason.LOST), "")] * 3, NOW, sweep, "")
    assert list(LedgerEntry.objects.values_list("run_id", "action")) == [("7", "requeue")] * 3


def test_batch_of_any_size_is_written():
    sweep = Sweep.objects.create(kind="crawl_job", phase="running", started_at=NOW)
    changes = [RunUpdate(replace(RUN, pk=str(pk)), Decision(Action.FAIL, Reason.STALLED), "") for pk in range(1_001)]
    record_updates(ADAPTER, changes, NOW, sweep, "")
    assert sorted(map(int, LedgerEntry.objects.values_list("run_id", flat=True))) == list(range(1_001))


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("broker", "limits")
def test_entries_of_sweep_lead_to_the_same_decisions_again():
    report("celery@w1", silent=DEAD_AFTER + SECOND, draining=True)
    report("celery@w2", active={"t2": NOW.timestamp()})
    running_job(MINUTE, heartbeat_at=NOW - 30 * SECOND)
    running_job(2 * HOUR, worker="celery@w2/abc", task_id="t2")
    queued_job(HOUR, task_id="", queued_at=None)
    # The workers are waited for, so time has to pass.
    with freeze_time(NOW, tick=True):
        swept = [sweep(ADAPTER, phase) for phase in (Phase.RUNNING, Phase.QUEUED)]
    assert [row.errors for row in swept] == [[], []]
    rows = list(LedgerEntry.objects.order_by("reason"))
    assert [row.reason for row in rows] == ["never_sent", "orphaned", "timed_out"]
    for row in rows:
        run, evidence = facts_from_json(row.facts), evidence_from_json(row.evidence)
        assert to_compact(run) == row.facts
        assert to_compact(evidence) == row.evidence
        again = decide(run, evidence, conf.policy(ADAPTER), row.created_at)
        assert again.action == row.action
        assert again.reason == row.reason
        assert again.terminate == row.terminate
        assert again.exhausted == row.exhausted
        assert again.interrupted == row.interrupted
    assert [row.terminate for row in rows] == [False, False, True]
    assert [evidence_from_json(row.evidence).claimant_liveness for row in rows] == ["unknown", "dead", "alive"]
