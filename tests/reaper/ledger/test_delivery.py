"""What the ledger owes the broker, and what the broker has confirmed."""

import pytest

from reaper.ledger.delivery import confirm_dispatches, entries_of_tasks, owed_revokes, sweeps_owing_revokes
from reaper.models import Sweep
from tests.factories import HOUR, NOW, SECOND
from tests.reaper.ledger.entries import ADAPTER, LATER, entry

pytestmark = pytest.mark.django_db


def swept(**fields):
    """A sweep that acted."""
    return Sweep.objects.create(**{"kind": "crawl_job", "phase": "running", "started_at": NOW, "acted": 1} | fields)


def test_pending_revokes_are_those_of_sweeps_within_the_hour():
    swept(started_at=NOW - HOUR)
    swept(revoked_at=NOW)
    swept(kind="source_result")
    swept(idle=True)
    cut_off, failed = swept(started_at=NOW - HOUR + SECOND), swept(finished_at=NOW)
    assert list(sweeps_owing_revokes(ADAPTER, NOW)) == [cut_off, failed]
    killed = entry(sweep=cut_off, task_id="t1", terminate=True, evidence={"holder": "celery@w1/abc"})
    entry(sweep=cut_off, task_id="t2", evidence={"holder": "celery@w1/abc"})
    entry(sweep=cut_off, task_id="t3", terminate=True, evidence=[])
    entry(sweep=cut_off, task_id="")
    assert owed_revokes(ADAPTER, failed) == []
    doomed = owed_revokes(ADAPTER, cut_off)
    assert [(each.task_id, each.node) for each in doomed] == [("t1", "celery@w1"), ("t2", ""), ("t3", "")]
    assert killed.owes_revoke
    assert not entry(task_id="t1", sweep=swept(revoked_at=NOW)).owes_revoke
    assert not entry(task_id="t1").owes_revoke


def test_dry_run_entries_need_no_revoke_and_lose_no_task():
    entry(applied=False, task_id="t1")
    assert entries_of_tasks(ADAPTER, ["t1"], NOW - HOUR) == []
    entry(task_id="t1")
    assert [each.applied for each in entries_of_tasks(ADAPTER, ["t1"], NOW - HOUR)] == [True]


def test_dispatch_is_confirmed_once():
    row, other = entry(new="t2"), entry(new="t2", run="8")
    confirm_dispatches(ADAPTER, {"7": "t2"}, NOW)
    confirm_dispatches(ADAPTER, {"7": "t2"}, LATER)
    confirm_dispatches(ADAPTER, {}, NOW)
    row.refresh_from_db()
    other.refresh_from_db()
    assert row.published_at == NOW
    assert other.published_at is None


def test_late_publish_confirms_only_the_dispatch_it_repeats():
    older, mine = entry(new="t0"), entry(new="t1")
    others = [entry(new="t1", run="8"), entry(new="t1", kind="source_result"), entry(new="t1", sent=True)]
    confirm_dispatches(ADAPTER, {"7": "t1"}, LATER)
    for row in (older, mine, *others):
        row.refresh_from_db()
    assert [row.published_at for row in (older, mine, *others)] == [None, LATER, None, None, NOW]
