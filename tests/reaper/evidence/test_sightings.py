"""Sightings: an absent message counts only when two scans agree."""

from datetime import timedelta

import pytest
from freezegun import freeze_time

from reaper import tasks
from reaper.broker.connection import Broker
from reaper.conf import settings as conf
from reaper.core.facts import Phase
from reaper.evidence.collector import EvidenceCollector
from reaper.evidence.sightings import store_sightings
from reaper.models import LedgerEntry, MessageSighting
from reaper.sweeps.judging import judge_phase
from reaper.workers.registry import REPORT_RETENTION
from tests.factories import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    earlier_sighting,
    fresh,
    keep_reporting,
    lost_job,
    queued_job,
    report,
    witness,
)
from tests.reaper.command import reaper
from tests.reaper.evidence.collecting import gather, scan_finds, sweep

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]
MARGIN = timedelta(milliseconds=1)


def test_first_sighting_is_stored_and_the_second_decides():
    job = queued_job(MINUTE)
    witness()
    assert sweep(Phase.QUEUED).counts == {"inconclusive": 1}
    look = MessageSighting.objects.get()
    assert look.kind == "crawl_job"
    assert look.run_id == str(job.pk)
    assert look.task_id == job.task_id
    assert look.message_location == "absent"
    assert look.seen_at == NOW
    # No worker has reported since.
    assert sweep(Phase.QUEUED, NOW + 5 * SECOND).counts == {"inconclusive": 1}
    assert MessageSighting.objects.get().seen_at == NOW
    keep_reporting(NOW + 6 * SECOND)
    assert sweep(Phase.QUEUED, NOW + 6 * SECOND).counts == {"lost": 1}


def test_every_live_worker_must_report_between_two_sightings():
    job = lost_job()
    # The sighting was 10 s ago; a list from before it may be written up to `MAX_LIST_AGE` later.
    report("celery@slow/abc", silent=8 * SECOND)
    assert gather(job)[0].all_reported_since is False
    report("celery@slow/abc", silent=8 * SECOND - MARGIN)
    assert gather(job)[0].all_reported_since is True


@pytest.mark.parametrize("change", ["another task", "another presence"])
def test_sighting_of_another_task_or_location_is_replaced(change):
    job = queued_job(MINUTE)
    witness()
    earlier_sighting(job, presence="delivered" if change == "another presence" else "absent")
    if change == "another task":
        MessageSighting.objects.update(task_id="another")
    (found,) = gather(job)
    assert found.first_sighting_at is None
    assert found.all_reported_since is False
    assert sweep(Phase.QUEUED).acted == 0
    look = MessageSighting.objects.get()
    assert look.task_id == job.task_id
    assert look.message_location == "absent"
    assert look.seen_at == NOW


@pytest.mark.parametrize("where", ["waiting", "held"])
def test_sighting_is_deleted_when_the_task_is_found_again(broker, where, monkeypatch, answers):
    job = lost_job()
    if where == "waiting":
        scan_finds(monkeypatch, waiting=frozenset({job.task_id}), depth={"crawl": 1})
    else:
        report("celery@w1/abc", held=[job.task_id])
    assert sweep(Phase.QUEUED).counts == {"backlog" if where == "waiting" else "reserved": 1}
    assert not MessageSighting.objects.exists()


def test_unknown_location_changes_no_sighting(monkeypatch, answers):
    job = lost_job()
    before = MessageSighting.objects.values().get()
    scan_finds(monkeypatch, depth={"crawl": None}, incomplete_queues=frozenset({"crawl"}), error="down")
    assert sweep(Phase.QUEUED).acted == 0
    assert MessageSighting.objects.values().get() == before
    assert fresh(job).task_id == job.task_id


@pytest.mark.django_db(transaction=True)
def test_dry_run_and_diagnosis_store_no_sighting():
    queued_job(MINUTE)
    witness()
    reaper("sweep", "--dry-run")
    reaper("diagnose")
    assert not MessageSighting.objects.exists()
    reaper("sweep")
    assert MessageSighting.objects.count() == 1


def test_overlapping_sweeps_share_one_sighting():
    """The second sweep has read that there is none before the first stores its own."""
    adapter = conf.adapters()["crawl_job"]
    queued_job(MINUTE)
    witness()
    with freeze_time(NOW), Broker() as one, Broker() as other:
        both = [EvidenceCollector(adapter, link, conf.policy(adapter), NOW) for link in (one, other)]
        pages = [next(judge_phase(adapter, Phase.QUEUED, each)) for each in both]
        for page, each in zip(pages, both, strict=True):
            store_sightings(adapter, page, each.scanned_at)
    assert MessageSighting.objects.get().seen_at == NOW
    assert not LedgerEntry.objects.exists()


@freeze_time(NOW)
def test_old_sightings_are_pruned():
    old, kept = queued_job(HOUR), queued_job(HOUR)
    earlier_sighting(old, ago=REPORT_RETENTION + SECOND)
    earlier_sighting(kept, ago=REPORT_RETENTION)
    tasks.prune_history()
    assert MessageSighting.objects.get().run_id == str(kept.pk)
