"""Dispatch, against the database and a real broker: what is stored and sent, and what is left alone."""

from uuid import uuid4

import pytest
from django.db import transaction
from freezegun import freeze_time

from apps.sources import dispatch, parents
from apps.sources.models import CrawlJob, CrawlJobSourceResult
from reaper.models import LedgerEntry
from tests.factories import (
    COMMITTED,
    NOW,
    child,
    fresh,
    parent,
    queued_job,
    sent_child,
    source,
)
from tests.sources.run_helpers import (
    EVERY_KIND,
    REFUSES,
    as_stored,
    change,
)

pytestmark = COMMITTED

# --- jobs -------------------------------------------------------------------------------------------------------------


def test_create_job_creates_one_per_task_id():
    made = dispatch.create_job(source().pk, triggered_by="api", overrides={"a": 1}, task_id="t")
    again = dispatch.create_job(made.source_id, triggered_by="api", overrides={"a": 1}, task_id="t")
    assert made == again
    assert made.status == "pending"
    assert made.config_overrides == {"a": 1}
    assert made.triggered_by == "api"
    assert made.queued_at is not None


def test_create_job_without_task_id_creates_new_one():
    of = source().pk
    made = [dispatch.create_job(of, triggered_by="api") for _ in range(2)]
    assert made[0] != made[1]
    assert {each.task_id for each in made} == {""}


# --- dispatch ---------------------------------------------------------------------------------------------------------


@EVERY_KIND
def test_dispatch_stores_task_id_and_sends_message(broker, make):
    row = make(task_id="", queued_at=None)
    with freeze_time(NOW):
        task_id = dispatch.dispatch_run(type(row), row.pk)
    after = fresh(row)
    assert after.status == "pending"
    assert after.task_id == task_id
    assert after.queued_at == NOW
    (sent,) = broker.waiting("crawl")
    named = {"crawl_job_id": str(row.pk)} if make is queued_job else {"parent_job_id": str(row.crawl_job_id)}
    assert sent == (task_id, 0, [str(row.source_id)], named)


def test_every_dispatch_has_new_id_and_last_one_counts(broker):
    job = queued_job(task_id="")
    ids = [dispatch.dispatch_run(CrawlJob, job.pk) for _ in range(3)]
    assert len({*ids, str(job.pk)}) == 4
    assert fresh(job).task_id == ids[-1]
    assert broker.ids() == ids


def test_dispatch_touches_no_other_run(broker):
    job, other = queued_job(), queued_job()
    before = as_stored(other)
    dispatch.dispatch_run(CrawlJob, job.pk)
    assert as_stored(other) == before


def test_dispatch_stores_further_columns(broker):
    job = queued_job()
    dispatch.dispatch_run(CrawlJob, job.pk, stored={"config_overrides": {"a": 1}})
    assert fresh(job).config_overrides == {"a": 1}


def test_dispatch_passes_options_to_broker(broker):
    job = queued_job()
    task_id = dispatch.dispatch_run(CrawlJob, job.pk, queue="default", retries=2)
    assert broker.ids("crawl") == []
    assert [(sent.id, sent.retries) for sent in broker.waiting("default")] == [(task_id, 2)]


def test_dispatch_in_transaction_sends_after_commit(broker):
    job = queued_job(task_id="")
    with transaction.atomic():
        task_id = dispatch.dispatch_run(CrawlJob, job.pk)
        with transaction.atomic():
            pass
        assert broker.ids() == []
    assert broker.ids() == [task_id]


def test_dispatch_rolled_back_sends_and_stores_nothing(broker):
    job = queued_job()
    with transaction.atomic():
        dispatch.dispatch_run(CrawlJob, job.pk)
        transaction.set_rollback(True)
    assert broker.ids() == []
    assert fresh(job).task_id == job.task_id


@pytest.mark.parametrize("status", ["running", "completed", "failed", "cancelled", "paused"])
def test_dispatch_of_run_that_is_not_pending_raises(broker, status):
    job = queued_job(status=status)
    before = as_stored(job)
    with pytest.raises(dispatch.NotPending):
        dispatch.dispatch_run(CrawlJob, job.pk, manual=True)
    assert as_stored(job) == before
    assert broker.ids() == []
    assert not LedgerEntry.objects.exists()


@pytest.mark.parametrize(
    ("children", "with_source"), [([], False), (["pending"], False), (["pending"], True), (["completed"], True)]
)
def test_dispatch_of_parent_raises(broker, children, with_source):
    job = parent(*children, status="pending", source=source() if with_source else None)
    with pytest.raises(dispatch.NotPending):
        dispatch.dispatch_run(CrawlJob, job.pk)
    assert fresh(job).task_id == ""
    assert broker.ids() == []


def test_dispatch_of_missing_run_raises(broker):
    with pytest.raises(dispatch.NotPending):
        dispatch.dispatch_run(CrawlJob, uuid4())
    assert broker.ids() == []


@EVERY_KIND
def test_refused_publish_raises_and_leaves_run_never_sent(refusing_broker, make):
    row, other = make(), make()
    with pytest.raises(REFUSES):
        dispatch.dispatch_run(type(row), row.pk)
    after = fresh(row)
    assert after.status == "pending"
    assert after.task_id == ""
    assert fresh(other).task_id == other.task_id


def test_publish_to_hanging_broker_raises_and_leaves_run_never_sent(hanging_broker):
    job = queued_job()
    with pytest.raises(REFUSES):
        dispatch.dispatch_run(CrawlJob, job.pk)
    assert fresh(job).task_id == ""


def test_failed_publish_leaves_id_of_later_dispatch(refusing_broker):
    job = queued_job()
    with pytest.raises(REFUSES):
        dispatch.publish(CrawlJob, job.pk, "an-earlier-id")
    assert fresh(job).task_id == job.task_id


@pytest.mark.parametrize("status", ["running", "completed", "failed"])
def test_failed_publish_leaves_run_claimed_in_between(refusing_broker, status):
    job = queued_job(status=status)
    with pytest.raises(REFUSES):
        dispatch.publish(CrawlJob, job.pk, job.task_id)
    assert fresh(job).task_id == job.task_id


def test_publish_of_deleted_run_sends_nothing(broker):
    dispatch.publish(CrawlJob, uuid4(), "some-id")
    assert broker.ids() == []


def test_manual_dispatch_is_recorded_with_task_id_or_not_at_all(broker):
    job = queued_job()
    task_id = dispatch.dispatch_run(CrawlJob, job.pk, manual=True)
    (row,) = LedgerEntry.objects.all()
    assert row.kind == "crawl_job"
    assert row.run_id == str(job.pk)
    assert row.action == "dispatch"
    assert row.new_task_id == task_id
    with transaction.atomic():
        dispatch.dispatch_run(CrawlJob, job.pk, manual=True)
        transaction.set_rollback(True)
    assert LedgerEntry.objects.count() == 1


def test_automatic_dispatch_is_not_recorded(broker):
    dispatch.dispatch_run(CrawlJob, queued_job().pk)
    assert not LedgerEntry.objects.exists()


# --- children ---------------------------------------------------------------------------------------------------------


def test_new_parent_has_one_sent_child_per_source(broker):
    sources = [source(), source()]
    job = parents.create_parent(sources, triggered_by="schedule", overrides={"a": 1})
    after = fresh(job)
    assert after.status == "pending"
    assert after.is_multi_source is True
    assert after.source_id is None
    assert after.task_id == ""
    assert after.triggered_by == "schedule"
    assert after.config_overrides == {"a": 1}
    children = list(job.source_results.all())
    assert {each.source_id for each in children} == {each.pk for each in sources}
    assert {each.status for each in children} == {"pending"}
    assert sorted(broker.ids()) == sorted(each.task_id for each in children)
    assert "" not in broker.ids()
    assert {tuple(sent.kwargs.items()) for sent in broker.waiting()} == {(("parent_job_id", str(job.pk)),)}


def test_parent_rolled_back_sends_no_child(broker):
    with transaction.atomic():
        parents.create_parent([source()], triggered_by="manual")
        assert broker.ids() == []
        transaction.set_rollback(True)
    assert broker.ids() == []
    assert not CrawlJob.objects.exists()


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_children_are_sent_in_batches_each_once(broker, monkeypatch, number):
    monkeypatch.setattr(dispatch, "BATCH", 2)
    job = parent(status="pending")
    children = [sent_child(job, task_id="") for _ in range(number)]
    dispatch.dispatch_children(job.pk)
    assert sorted(broker.ids()) == sorted(fresh(each).task_id for each in children)
    assert len(set(broker.ids())) == number


def test_batch_of_children_is_stamped_after_previous_was_sent(broker, monkeypatch):
    monkeypatch.setattr(dispatch, "BATCH", 1)
    job = parent(status="pending")
    children = [sent_child(job, task_id="", queued_at=None) for _ in range(2)]
    send, stamped = dispatch.send, []

    def count_and_send(*args, **options):
        stamped.append(CrawlJobSourceResult.objects.exclude(task_id="").count())
        send(*args, **options)

    monkeypatch.setattr(dispatch, "send", count_and_send)
    dispatch.dispatch_children(job.pk)
    assert stamped == [1, 2]
    assert all(fresh(each).queued_at for each in children)


@pytest.mark.parametrize(
    "fields",
    [{"task_id": "sent-by-the-reaper"}, {"status": "running"}, {"status": "completed"}, {"status": "skipped"}],
    ids=lambda fields: next(iter(fields.values())),
)
def test_child_that_needs_no_dispatch_is_left(broker, fields):
    job = parent(status="pending")
    left, unsent = (child(job, **{"status": "pending", "task_id": "", **each}) for each in (fields, {}))
    before = as_stored(left)
    dispatch.dispatch_children(job.pk)
    assert as_stored(left) == before
    assert broker.ids() == [fresh(unsent).task_id]


@pytest.mark.parametrize("fields", [{"task_id": "sent-by-the-reaper"}, {"status": "skipped"}], ids=str)
def test_child_changed_during_dispatch_of_others_is_left(broker, monkeypatch, fields):
    job = parent(status="pending")
    children = [sent_child(job, task_id="") for _ in range(2)]
    first_id, taken = dispatch.new_task_id, []

    def new_id_once_the_children_were_listed():
        if not taken:
            taken.append(change(children[1], **fields))
        return first_id()

    monkeypatch.setattr(dispatch, "new_task_id", new_id_once_the_children_were_listed)
    dispatch.dispatch_children(job.pk)
    after = fresh(children[1])
    assert after.status == taken[0].status
    assert after.task_id == taken[0].task_id
    assert broker.ids() == [fresh(children[0]).task_id]


def test_dispatch_children_sends_only_own_children(broker):
    other = sent_child(task_id="")
    dispatch.dispatch_children(parent(status="pending").pk)
    assert fresh(other).task_id == ""
    assert broker.ids() == []


def test_children_refused_by_broker_are_left_never_sent(refusing_broker):
    with pytest.raises(REFUSES):
        parents.create_parent([source(), source(), source()], triggered_by="manual")
    assert list(CrawlJobSourceResult.objects.values_list("status", "task_id")) == [("pending", "")] * 3
