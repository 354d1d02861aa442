"""What is sent after a commit, and what is not: messages, and tasks that several runs share."""

import pytest

from apps.sources.reaping import CrawlJobs
from reaper.adapters import Message
from reaper.core.decisions import PUBLISH_GRACE
from reaper.core.policy import Action
from reaper.db import pagination as reading
from reaper.models import LedgerEntry
from tests.factories import (
    HOUR,
    NOW,
    SECOND,
    fresh,
    lost_job,
    queued_job,
)
from tests.reaper.sweeps.helpers import LOST, act_manually, requeues, sweep, sweep_queued

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


def spared(broker, task_id):
    """No broadcast named this task."""
    return task_id not in [each for revoke in broker.revokes() for each in revoke.ids]


@pytest.mark.parametrize("how", ["raises", "lacks it", "cannot be sent", "cannot be read"])
def test_run_without_usable_message_does_not_stop_the_others(broker, how):
    bad, *good = [lost_job(LOST + (9 - number) * SECOND) for number in range(4)]

    class Fragile(CrawlJobs):
        def messages(self, of):
            found = super().messages(of)
            if str(bad.pk) not in found:
                return found
            if how == "raises":
                raise OSError("boom")
            del found[str(bad.pk)]
            unusable = {"cannot be sent": Message([object()]), "cannot be read": None}
            return {str(bad.pk): unusable[how], **found} if how in unusable else found

    row = sweep_queued(Fragile())
    assert row.acted == 4
    assert sorted(broker.ids()) == sorted(fresh(each).task_id for each in good)
    assert row.errors
    assert "cut short" not in row.error_messages[0]
    sweep_queued(at=NOW + PUBLISH_GRACE + SECOND)
    assert fresh(bad).task_id in broker.ids()
    assert requeues(bad) == 1


def test_messages_of_other_runs_are_not_sent(broker):
    job, other = lost_job(LOST), queued_job()

    class Generous(CrawlJobs):
        def messages(self, of):
            return {str(other.pk): Message(), 7: Message(), **super().messages(of)}

    row = sweep_queued(Generous())
    assert broker.ids() == [fresh(job).task_id]
    assert row.acted == 1
    assert LedgerEntry.objects.get().published_at == NOW


@pytest.mark.parametrize("page", [500, 1])
@pytest.mark.parametrize("healthy", ["underway", "new"])
def test_task_shared_with_healthy_run_is_never_revoked(parcels, broker, monkeypatch, page, healthy):
    monkeypatch.setattr(reading, "PAGE", page)
    stuck = parcels.create(stage="underway", job="t1", made=NOW, picked=NOW - 2 * HOUR)
    left = parcels.create(stage=healthy, job="t1", made=NOW, picked=NOW)
    sweep("parcel")
    assert fresh(stuck).stage == "lost"
    assert fresh(left).stage == healthy
    assert spared(broker, "t1")
    sweep("parcel", at=NOW + SECOND)
    assert spared(broker, "t1")


def test_task_shared_with_deferred_run_is_revoked_with_the_last(parcels, broker, limits):
    limits(MAX_ACTIONS=1)
    for hours in (3, 2):
        parcels.create(stage="underway", job="t1", picked=NOW - hours * HOUR)
    sweep("parcel")
    assert spared(broker, "t1")
    sweep("parcel")
    assert not spared(broker, "t1")


def test_task_shared_by_two_stuck_runs_is_revoked(parcels, broker):
    for _ in range(2):
        parcels.create(stage="underway", job="t1", picked=NOW - 2 * HOUR)
    assert sweep("parcel").acted == 2
    assert not spared(broker, "t1")


def test_task_shared_with_another_run_is_not_revoked_manually(parcels, broker):
    mine, other = (parcels.create(stage="underway", job="t1", picked=NOW) for _ in range(2))
    act_manually("parcel", mine, Action.FAIL)
    assert fresh(mine).stage == "lost"
    assert fresh(other).stage == "underway"
    assert spared(broker, "t1")
