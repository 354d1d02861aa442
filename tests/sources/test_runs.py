"""Every change of a run's state, against the database and a real broker: what is written, and what is refused."""

import logging
from itertools import count
from uuid import uuid4

import kombu.exceptions
import pytest
import redis.exceptions
from django.db import connection, transaction
from django.dispatch import Signal
from django.test.utils import CaptureQueriesContext
from freezegun import freeze_time

from apps.sources import claims, dispatch, parents, runs
from apps.sources.models import CrawlJob, CrawlJobSourceResult
from reaper.models import LedgerEntry, RefusedWrite
from tests.factories import (
    COMMITTED,
    NOW,
    SECOND,
    child,
    fresh,
    parent,
    queued_job,
    running_job,
    sent_child,
    source,
)
from tests.processes import broker_at, free_port, redis_server

pytestmark = COMMITTED

TOTALS = {"pages": 5, "found": 4, "new": 3, "duplicates": 2, "errors": 1}
NO_TOTALS = dict.fromkeys(TOTALS, 0)
KINDS = {CrawlJob: "crawl_job", CrawlJobSourceResult: "source_result"}
EVERY_KIND = pytest.mark.parametrize("make", [queued_job, sent_child], ids=KINDS.values())
WRITES = {
    "progress": lambda hold: hold.progress(TOTALS),
    "complete": lambda hold: hold.complete(TOTALS),
    "fail": lambda hold: hold.fail("It did not work.", "error"),
    "release": lambda hold: hold.release(1),
}
# Nothing is committed where everything is refused; so these many are cheap.
NO_COMMIT = pytest.mark.django_db
EVERY_WRITE = pytest.mark.parametrize("write", WRITES)


@pytest.fixture(scope="module")
def server():
    with redis_server() as server, broker_at(server.url):
        yield server


@pytest.fixture
def broker(server):
    """A broker without messages, which is Celery's broker."""
    server.flush()
    return server


@pytest.fixture
def refusing_broker(broker):
    """Nobody listens there."""
    with broker_at(f"redis://127.0.0.1:{free_port()}/0"):
        yield


@pytest.fixture
def hanging_broker(broker):
    """It takes every connection and answers nothing."""
    with broker_at(broker.url, socket_timeout=0.3, socket_connect_timeout=0.3), broker.stopped():
        yield


REFUSES = (kombu.exceptions.OperationalError, redis.exceptions.RedisError)


def as_stored(row):
    """All columns of the row as the database has them."""
    return type(row).objects.filter(pk=row.pk).values().get()


def change(row, **values):
    """Write behind everybody's back."""
    type(row).objects.filter(pk=row.pk).update(**values)
    return fresh(row)


def hold_of(row, task_id=None):
    """The hold of a task that believes that the run is its own."""
    task_id = row.task_id if task_id is None else task_id
    return claims.Claim(model=type(row), pk=row.pk, task_id=task_id, worker="celery@w1/abc")


def claimed(make, **fields):
    """A claimed run and its task's hold."""
    row = make(**fields)
    hold = claims.claim(type(row), row.pk, row.task_id, "celery@w1/abc")
    return fresh(row), hold


def totals_of(row):
    """The row's totals, by the crawl's own names."""
    return {name: getattr(row, column) for name, column in runs.TOTALS[type(row)].items()}


# --- dispatch -----------------------------------------------------------------------------------------------------


@EVERY_KIND
def test_dispatch_stores_task_id_and_sends_message(broker, make):
    row = make(task_id="", queued_at=None)
    with freeze_time(NOW):
        task_id = dispatch.dispatch_run(type(row), row.pk)
    after = fresh(row)
    assert (after.status, after.task_id, after.queued_at) == ("pending", task_id, NOW)
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
    assert (after.status, after.task_id) == ("pending", "")
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
    assert (row.kind, row.run_id, row.action, row.new_task_id) == ("crawl_job", str(job.pk), "dispatch", task_id)
    with transaction.atomic():
        dispatch.dispatch_run(CrawlJob, job.pk, manual=True)
        transaction.set_rollback(True)
    assert LedgerEntry.objects.count() == 1


def test_automatic_dispatch_is_not_recorded(broker):
    dispatch.dispatch_run(CrawlJob, queued_job().pk)
    assert not LedgerEntry.objects.exists()


# --- children -----------------------------------------------------------------------------------------------------


def test_new_parent_has_one_sent_child_per_source(broker):
    sources = [source(), source()]
    job = parents.create_parent(sources, triggered_by="schedule", overrides={"a": 1})
    after = fresh(job)
    assert (after.status, after.is_multi_source, after.source_id) == ("pending", True, None)
    assert (after.task_id, after.triggered_by, after.config_overrides) == ("", "schedule", {"a": 1})
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
    assert (after.status, after.task_id) == (taken[0].status, taken[0].task_id)
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


# --- claim --------------------------------------------------------------------------------------------------------


@EVERY_KIND
def test_claim_by_named_task_starts_run(make):
    row = make(heartbeat_at=NOW, completed_at=NOW, pages_crawled=7)
    change(row, **{column: 9 for name, column in runs.TOTALS[type(row)].items() if name != "pages"})
    with freeze_time(NOW + SECOND):
        hold = claims.claim(type(row), row.pk, row.task_id, "celery@w2/def")
    after = fresh(row)
    assert (after.status, after.started_at, after.worker) == ("running", NOW + SECOND, "celery@w2/def")
    assert (after.heartbeat_at, after.completed_at, totals_of(after)) == (None, None, NO_TOTALS)
    assert (after.task_id, after.queued_at) == (row.task_id, row.queued_at)
    assert hold == claims.Claim(model=type(row), pk=row.pk, task_id=row.task_id, worker="celery@w2/def")


@EVERY_KIND
def test_claim_touches_no_other_run(make):
    row, other = make(), make()
    before = as_stored(other)
    claims.claim(type(row), row.pk, row.task_id, "w")
    assert as_stored(other) == before


@NO_COMMIT
@EVERY_KIND
@pytest.mark.parametrize(
    "fields",
    [
        {"task_id": "a-later-dispatch"},
        {"task_id": ""},
        {"status": "running"},
        {"status": "completed"},
        {"status": "failed"},
        {"status": "cancelled"},
        {"status": "skipped"},
        {"status": "paused"},
        {"status": "running", "task_id": "a-later-dispatch"},
    ],
    ids=str,
)
def test_claim_by_other_task_or_second_copy_is_refused(make, fields):
    row = make()
    change(row, **fields)
    before = as_stored(row)
    with pytest.raises(claims.ClaimLost):
        claims.claim(type(row), row.pk, row.task_id, "celery@w2/def")
    assert as_stored(row) == before


@pytest.mark.parametrize("model", KINDS, ids=KINDS.values())
def test_claim_of_deleted_run_is_refused(model):
    with pytest.raises(claims.ClaimLost):
        claims.claim(model, uuid4(), "some-id", "w")


def test_claim_with_empty_id_is_refused():
    row = queued_job()
    with pytest.raises(claims.ClaimLost):
        claims.claim(CrawlJob, row.pk, "", "w")


def test_first_claimed_child_starts_only_its_parent():
    row, other = sent_child(), sent_child()
    with freeze_time(NOW):
        claims.claim(CrawlJobSourceResult, row.pk, row.task_id, "w")
    started = fresh(row.crawl_job)
    assert (started.status, started.started_at) == ("running", NOW)
    assert fresh(other.crawl_job).status == "pending"


@pytest.mark.parametrize("status", ["running", "completed", "failed", "cancelled", "paused"])
def test_claimed_child_leaves_parent_that_is_not_pending(status):
    job = parent(status=status, started_at=NOW - SECOND)
    row = sent_child(job)
    before = as_stored(job)
    claims.claim(CrawlJobSourceResult, row.pk, row.task_id, "w")
    assert as_stored(job) == before


# --- progress, complete, fail, release: the task's own writes -----------------------------------------------------


@EVERY_KIND
def test_progress_is_stored_under_table_column_names(make):
    row, hold = claimed(make)
    with freeze_time(NOW + SECOND):
        hold.progress(TOTALS)
    after = fresh(row)
    assert (after.status, after.heartbeat_at, totals_of(after)) == ("running", NOW + SECOND, TOTALS)


@EVERY_KIND
def test_complete_stores_totals_and_clears_error(make):
    row, hold = claimed(make)
    change(row, error_message="of an earlier attempt", error_code="old")
    with freeze_time(NOW + SECOND):
        hold.complete(TOTALS)
    after = fresh(row)
    assert (after.status, after.completed_at, totals_of(after)) == ("completed", NOW + SECOND, TOTALS)
    assert (after.error_message, after.error_code) == ("", "")


@EVERY_KIND
def test_fail_stores_reason_and_keeps_totals(make):
    row, hold = claimed(make)
    hold.progress(TOTALS)
    with freeze_time(NOW + SECOND):
        hold.fail("It did not work.", "c" * 60)
    after = fresh(row)
    assert (after.status, after.completed_at, totals_of(after)) == ("failed", NOW + SECOND, TOTALS)
    assert (after.error_message, after.error_code) == ("It did not work.", "c" * 50)


@EVERY_KIND
def test_release_requeues_under_new_id_with_retries(broker, make):
    row, hold = claimed(make)
    with freeze_time(NOW + SECOND):
        hold.release(2)
    after = fresh(row)
    assert (after.status, after.queued_at, after.started_at, after.worker) == ("pending", NOW + SECOND, None, "")
    assert after.task_id not in ("", row.task_id)
    assert [(sent.id, sent.retries) for sent in broker.waiting()] == [(after.task_id, 2)]
    with pytest.raises(claims.ClaimLost):
        claims.claim(type(row), row.pk, row.task_id, "w")
    assert claims.claim(type(row), row.pk, after.task_id, "w")


def test_release_changes_status_and_id_in_one_update(broker):
    _, hold = claimed(queued_job)
    with CaptureQueriesContext(connection) as asked:
        hold.release(1)
    (update,) = [query["sql"] for query in asked if query["sql"].startswith("UPDATE")]
    assert all(f'"{column}" = ' in update.split("WHERE")[0] for column in ("status", "task_id", "queued_at"))


def test_release_refused_by_broker_leaves_run_never_sent(refusing_broker):
    row, hold = claimed(queued_job)
    with pytest.raises(REFUSES):
        hold.release(1)
    after = fresh(row)
    assert (after.status, after.task_id) == ("pending", "")


@EVERY_WRITE
@EVERY_KIND
def test_write_touches_no_other_run(broker, make, write):
    _, hold = claimed(make)
    other, _ = claimed(make)
    before = as_stored(other)
    WRITES[write](hold)
    assert as_stored(other) == before


@NO_COMMIT
@EVERY_WRITE
@EVERY_KIND
@pytest.mark.parametrize(
    "fields",
    [
        {"task_id": "of-the-next-attempt"},
        {"task_id": ""},
        {"status": "pending"},
        {"status": "completed"},
        {"status": "failed"},
        {"status": "cancelled"},
        {"status": "skipped"},
        {"status": "paused"},
        {"status": "pending", "task_id": "of-the-next-attempt"},
    ],
    ids=str,
)
def test_write_by_task_that_lost_its_run_changes_nothing(broker, make, fields, write):
    row, hold = claimed(make)
    change(row, **fields)
    before = as_stored(row)
    with pytest.raises(claims.ClaimLost):
        WRITES[write](hold)
    assert as_stored(row) == before
    assert broker.ids() == []


@EVERY_WRITE
@EVERY_KIND
def test_write_to_deleted_run_is_refused(broker, make, write):
    row, hold = claimed(make)
    row.delete()
    with pytest.raises(claims.ClaimLost):
        WRITES[write](hold)


@EVERY_WRITE
@EVERY_KIND
def test_refused_write_is_recorded(broker, make, write):
    row, hold = claimed(make)
    change(row, status="failed")
    with pytest.raises(claims.ClaimLost), freeze_time(NOW):
        WRITES[write](hold)
    seen = RefusedWrite.objects.values_list("kind", "run_id", "task_id", "worker", "write", "created_at")
    assert list(seen) == [(KINDS[type(row)], str(row.pk), hold.task_id, "celery@w1/abc", write, NOW)]


@EVERY_KIND
def test_refused_claim_is_recorded(make):
    row = make()
    with pytest.raises(claims.ClaimLost):
        claims.claim(type(row), row.pk, "an-older-id", "celery@w2/def")
    seen = RefusedWrite.objects.values_list("kind", "run_id", "task_id", "worker", "write")
    assert list(seen) == [(KINDS[type(row)], str(row.pk), "an-older-id", "celery@w2/def", "claim")]


def test_refused_write_sends_signal_and_is_logged(monkeypatch, caplog):
    heard, signal = [], Signal()
    signal.connect(lambda **said: heard.append(said), weak=False)
    monkeypatch.setattr(claims, "write_refused", signal)
    hold = hold_of(running_job(), "an-older-id")
    with caplog.at_level(logging.WARNING, "apps.sources.claims"), pytest.raises(claims.ClaimLost):
        hold.progress(TOTALS)
    assert heard == [{"signal": signal, "sender": CrawlJob, "claim": hold, "write": "progress"}]
    assert f"progress of CrawlJob {hold.pk} refused" in caplog.text


def test_accepted_write_is_not_recorded_as_refused(broker):
    _, hold = claimed(queued_job)
    hold.progress(TOTALS)
    hold.complete(TOTALS)
    assert not RefusedWrite.objects.exists()


@pytest.mark.parametrize("write", ["complete", "fail"])
def test_last_child_to_end_finalizes_parent(write):
    row, hold = claimed(sent_child)
    unfinished = child(row.crawl_job, "running")
    WRITES[write](hold)
    assert fresh(row.crawl_job).finalized_at is None
    WRITES[write](hold_of(unfinished))
    after = fresh(row.crawl_job)
    assert after.finalized_at is not None
    assert after.status == {"complete": "completed", "fail": "failed"}[write]


def test_child_end_rolled_back_finalizes_nothing():
    row, hold = claimed(sent_child)
    with transaction.atomic():
        hold.complete(TOTALS)
        transaction.set_rollback(True)
    assert fresh(row).status == "running"
    assert fresh(row.crawl_job).finalized_at is None


# --- jobs ---------------------------------------------------------------------------------------------------------


def test_create_job_creates_one_per_task_id():
    made = dispatch.create_job(source().pk, triggered_by="api", overrides={"a": 1}, task_id="t")
    again = dispatch.create_job(made.source_id, triggered_by="api", overrides={"a": 1}, task_id="t")
    assert made == again
    assert (made.status, made.config_overrides, made.triggered_by) == ("pending", {"a": 1}, "api")
    assert made.queued_at is not None


def test_create_job_without_task_id_creates_new_one():
    of = source().pk
    made = [dispatch.create_job(of, triggered_by="api") for _ in range(2)]
    assert made[0] != made[1]
    assert {each.task_id for each in made} == {""}


# --- cancel -------------------------------------------------------------------------------------------------------


def test_cancel_of_parent_skips_children_and_revokes_tasks(broker):
    job = parent("completed", "failed")
    pending, running, unsent = (child(job, status) for status in ("pending", "running", "pending"))
    change(unsent, task_id="")
    ended = [as_stored(each) for each in job.source_results.filter(status__in=["completed", "failed"])]
    with broker.revokes() as next_revoked:
        with freeze_time(NOW + SECOND):
            assert parents.cancel(job.pk) is True
        assert sorted(next_revoked()) == sorted([pending.task_id, running.task_id])
    for each in (pending, running, unsent):
        after = fresh(each)
        assert (after.status, after.completed_at, after.task_id) == ("skipped", NOW + SECOND, fresh(each).task_id)
    assert [as_stored(each) for each in job.source_results.filter(status__in=["completed", "failed"])] == ended
    after = fresh(job)
    assert (after.status, after.completed_at, after.finalized_at) == ("cancelled", NOW + SECOND, NOW + SECOND)


@pytest.mark.parametrize("status", ["pending", "running", "paused"])
def test_cancel_of_unfinished_job_revokes_its_task(broker, status):
    job, other = queued_job(status=status), running_job()
    before = as_stored(other)
    with broker.revokes() as next_revoked:
        assert parents.cancel(job.pk) is True
        assert next_revoked() == [job.task_id]
    assert fresh(job).status == "cancelled"
    assert as_stored(other) == before


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_cancel_of_ended_job_returns_false(broker, status):
    job = parent("running", status=status)
    (unfinished,) = job.source_results.all()
    before = as_stored(job), as_stored(unfinished)
    assert parents.cancel(job.pk) is False
    assert (as_stored(job), as_stored(unfinished)) == before


def test_cancel_of_unknown_job_returns_false():
    assert parents.cancel(uuid4()) is False


def test_cancel_leaves_children_of_other_jobs(broker):
    other = child(parent(), "running")
    parents.cancel(parent("running").pk)
    assert fresh(other).status == "running"


def test_cancel_rolled_back_revokes_and_finalizes_nothing(broker, monkeypatch):
    revoked = []
    monkeypatch.setattr(parents, "_revoke", revoked.append)
    job = parent("running")
    with transaction.atomic():
        parents.cancel(job.pk)
        transaction.set_rollback(True)
    assert revoked == []
    assert fresh(job).status == "running"
    parents.cancel(job.pk)
    assert len(revoked) == 1


@pytest.mark.parametrize("write", WRITES)
def test_child_cancelled_during_crawl_is_refused_and_parent_stays(broker, write):
    row, hold = claimed(sent_child)
    assert fresh(row.crawl_job).status == "running"
    parents.cancel(row.crawl_job_id)
    before = as_stored(row), as_stored(row.crawl_job)
    with pytest.raises(claims.ClaimLost):
        WRITES[write](hold)
    assert (as_stored(row), as_stored(row.crawl_job)) == before
    assert before[1]["status"] == "cancelled"


@pytest.mark.parametrize("write", WRITES)
def test_job_cancelled_during_crawl_stays_cancelled(broker, write):
    row, hold = claimed(queued_job)
    parents.cancel(row.pk)
    with pytest.raises(claims.ClaimLost):
        WRITES[write](hold)
    assert fresh(row).status == "cancelled"
    assert broker.ids() == []


def test_cancel_with_broker_down_succeeds(refusing_broker, caplog):
    job = parent("running")
    with caplog.at_level(logging.WARNING, "apps.sources.parents"):
        assert parents.cancel(job.pk) is True
    assert fresh(job).finalized_at is not None
    assert "could not revoke 1 tasks of a cancelled job" in caplog.text


def test_cancel_with_hanging_broker_returns_soon(hanging_broker, caplog):
    job = parent("running")
    with caplog.at_level(logging.WARNING, "apps.sources.parents"):
        assert parents.cancel(job.pk) is True
    assert fresh(job).finalized_at is not None
    assert "could not revoke" in caplog.text


def test_cancel_of_job_without_tasks_revokes_nothing(refusing_broker, caplog):
    assert parents.cancel(parent().pk) is True
    assert caplog.text == ""


# --- finalize -----------------------------------------------------------------------------------------------------

FINALIZED = [
    ("completed completed", "completed", ""),
    ("completed failed skipped", "completed", "1 sources failed; 1 sources skipped"),
    ("failed failed", "failed", "All 2 sources failed"),
    ("failed skipped", "failed", "1 failed, 1 skipped"),
    ("skipped skipped", "cancelled", ""),
]


@pytest.mark.parametrize("status", ["pending", "running"])
@pytest.mark.parametrize(("children", "becomes", "message"), FINALIZED, ids=[row[0] for row in FINALIZED])
def test_finalize_parent_with_ended_children_writes_outcome(children, becomes, message, status):
    job = parent(*children.split(), status=status)
    with freeze_time(NOW + SECOND):
        assert parents.finalize(job.pk) is True
    after = fresh(job)
    assert (after.status, after.error_message) == (becomes, message)
    assert after.completed_at == after.finalized_at == NOW + SECOND


@pytest.mark.parametrize("is_multi_source", [True, False])
@pytest.mark.parametrize("with_source", [True, False])
def test_finalize_treats_any_job_with_children_as_parent(is_multi_source, with_source):
    job = parent("completed", source=source() if with_source else None)
    change(job, is_multi_source=is_multi_source)
    assert parents.finalize(job.pk) is True
    assert fresh(job).status == "completed"


@pytest.mark.parametrize("unfinished", ["pending", "running", "from-a-newer-version"])
def test_finalize_parent_with_unfinished_child_does_nothing(unfinished):
    job = parent("completed", "failed", unfinished)
    before = as_stored(job)
    assert parents.finalize(job.pk) is False
    assert as_stored(job) == before


def test_finalize_twice_writes_once():
    job = parent("completed", "failed")
    assert parents.finalize(job.pk) is True
    before = as_stored(job)
    job.source_results.update(status="failed", articles_found=99)
    assert parents.finalize(job.pk) is False
    assert as_stored(job) == before


@pytest.mark.parametrize("status", ["running", "pending", "paused", "cancelled"])
def test_finalized_parent_is_never_finalized_again(status):
    job = parent("completed", status=status, finalized_at=NOW)
    before = as_stored(job)
    assert parents.finalize(job.pk) is False
    assert as_stored(job) == before


def test_finalize_replaces_totals_by_sums_of_children():
    job = parent(total_found=1000, pages_crawled=1000, new_articles=1000, duplicates=1000, errors=1000)
    for number, status in zip(count(1), ["completed", "failed", "skipped"], strict=False):
        counted = {column: number * TOTALS[name] for name, column in runs.TOTALS[CrawlJobSourceResult].items()}
        child(job, status, **counted)
    child(parent(), "completed", pages_crawled=500)
    parents.finalize(job.pk)
    assert totals_of(fresh(job)) == {name: 6 * each for name, each in TOTALS.items()}


@pytest.mark.parametrize("status", ["paused", "cancelled"])
@pytest.mark.parametrize("children", ["completed", "failed failed", "skipped"])
def test_finalize_keeps_status_of_paused_or_cancelled_parent(status, children):
    job = parent(*children.split(), status=status, error_message="as it was")
    with freeze_time(NOW + SECOND):
        assert parents.finalize(job.pk) is True
    after = fresh(job)
    assert (after.status, after.error_message) == (status, "as it was")
    assert after.completed_at == after.finalized_at == NOW + SECOND


def test_finalize_keeps_time_of_cancel():
    job = parent("skipped", status="cancelled", completed_at=NOW - SECOND)
    with freeze_time(NOW):
        parents.finalize(job.pk)
    assert fresh(job).completed_at == NOW - SECOND


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_finalize_leaves_manually_ended_parent(status):
    job = parent("skipped", status=status, error_message="by hand")
    before = as_stored(job)
    assert parents.finalize(job.pk) is False
    assert as_stored(job) == before


@pytest.mark.parametrize("status", ["pending", "running", "cancelled", "paused"])
def test_finalize_of_single_source_job_does_nothing(settings, status):
    job = queued_job(2 * settings.CRAWL_QUEUE_TIMEOUT, status=status)
    before = as_stored(job)
    with freeze_time(NOW):
        assert parents.finalize(job.pk) is False
    assert as_stored(job) == before


@pytest.mark.parametrize(("later", "fails"), [(0 * SECOND, False), (SECOND, True)], ids=["at the limit", "beyond"])
def test_finalize_without_children_fails_parent_after_timeout(settings, later, fails):
    job = parent(status="pending", created_at=NOW)
    before = as_stored(job)
    with freeze_time(NOW + settings.CRAWL_QUEUE_TIMEOUT + later):
        assert parents.finalize(job.pk) is fails
    after = fresh(job)
    if fails:
        assert (after.status, after.error_message, totals_of(after)) == ("failed", "no sources", NO_TOTALS)
    else:
        assert as_stored(job) == before


def test_finalize_of_unknown_parent_does_nothing():
    assert parents.finalize(uuid4()) is False


def test_finalize_of_one_parent_leaves_others():
    job, other = parent("completed"), parent("completed")
    before = as_stored(other)
    parents.finalize(job.pk)
    assert as_stored(other) == before


@pytest.mark.parametrize("nothing", [None, "", "no uuid", 0, "00000000-0000-4000-8000-000000000000"], ids=str)
def test_runbook_finalizer_ignores_invalid_ids(nothing):
    from apps.sources.tasks import _finalize_parent_job

    _finalize_parent_job(nothing)


@pytest.mark.parametrize("form", [str, lambda pk: pk, lambda pk: pk.hex], ids=["text", "uuid", "hex"])
def test_runbook_finalizer_finalizes_parent(form):
    from apps.sources.tasks import _finalize_parent_job

    job = parent("completed")
    _finalize_parent_job(form(job.pk))
    assert fresh(job).status == "completed"
