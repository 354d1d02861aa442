"""Writing the runs of a model: only what is unchanged, and all of it."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.db.models import F

from apps.sources.models import CrawlJob
from reaper.adapters import RunUpdate
from reaper.core.decisions import Decision
from reaper.core.facts import Phase
from reaper.core.policy import Action
from reaper.core.reasons import Reason
from tests.factories import NOW, SECOND, fresh, running_job
from tests.plugin.models import Parcel
from tests.reaper.adapters.kinds import (
    HOUR,
    KINDS,
    PHASES,
    apply,
    change,
    column,
    make,
    on_postgresql,
    seen,
)


@pytest.mark.parametrize("phase", PHASES)
def test_apply_fail_ends_run(kind, phase):
    row = make(kind, phase, HOUR, task_id="t1")
    mine = change(kind, row, Action.FAIL)
    assert apply(kind, mine) == [mine]
    assert column(kind, row, "status") == kind.adapter.status_after_fail
    assert column(kind, row, "message") == "Because."
    assert column(kind, row, "task_id") == "t1"
    if kind.adapter.finished_field:
        assert column(kind, row, "finished") == NOW
        assert column(kind, row, "code") == "timed_out"


@pytest.mark.parametrize("phase", PHASES)
def test_apply_close_ends_run_with_host_status(kind, phase):
    row = make(kind, phase)
    assert len(apply(kind, change(kind, row, Action.CLOSE))) == 1
    assert column(kind, row, "status") == kind.adapter.status_after_close
    assert column(kind, row, "message") == "Because."
    if kind.adapter.finished_field:
        assert column(kind, row, "finished") == NOW


@pytest.mark.parametrize("phase", PHASES)
def test_apply_requeue_stores_new_task_and_clears_old_attempt(kind, phase):
    row = make(kind, phase, HOUR, message="earlier", worker="celery@w1/abc", progress=NOW)
    assert len(apply(kind, change(kind, row, Action.REQUEUE, new_task_id="t2"))) == 1
    run = kind.adapter.get(str(row.pk))
    assert run.phase == Phase.QUEUED
    assert run.status == kind.adapter.status_after_requeue
    assert run.task_id == "t2"
    assert run.worker == ""
    assert run.started_at is None
    assert run.progress_at is None
    assert run.queued_at == (NOW if kind.adapter.queued_field else None)
    assert run.created_at == NOW - HOUR
    assert column(kind, row, "message") == "earlier"


def test_apply_writes_each_row_its_own_id_message_and_code(kind):
    requeued, failed = [make(kind) for _ in range(3)], [make(kind) for _ in range(3)]
    left = make(kind)
    before = kind.adapter.get(str(left.pk))
    changes = [change(kind, row, Action.REQUEUE, new_task_id=f"new-{row.pk}"[:40]) for row in requeued]
    changes += [change(kind, row, message=f"for {row.pk}") for row in failed]
    poison = Decision(Action.FAIL, Reason.TIMED_OUT, exhausted=True)
    changes[-1] = changes[-1]._replace(decision=poison)
    assert apply(kind, *changes) == changes
    for row in requeued:
        assert column(kind, row, "task_id") == f"new-{row.pk}"[:40]
    for row in failed:
        assert column(kind, row, "message") == f"for {row.pk}"
    if kind.adapter.code_field:
        assert [column(kind, row, "code") for row in failed] == ["timed_out", "timed_out", "poison"]
    assert kind.adapter.get(str(left.pk)) == before


@pytest.mark.parametrize(
    ("earlier", "after"), [("", "Because."), (None, "Because."), ("It was slow.", "It was slow.\nBecause.")]
)
def test_apply_appends_to_earlier_message(kind, earlier, after):
    if earlier is None and not kind.adapter.model_class._meta.get_field(kind.adapter.message_field).null:
        earlier = ""
    row = make(kind, message=earlier)
    apply(kind, change(kind, row))
    assert column(kind, row, "message") == after


def changed_since():
    """What may have happened to a run since it was read, for every kind that has the column."""
    tick = timedelta(microseconds=1)
    for name, kind in KINDS.items():
        adapter = kind.adapter
        for fact, value in {
            "status": adapter.queued_statuses[0],
            "task_id": "another",
            "progress": NOW + SECOND,
            "started": NOW + tick,
            "queued": NOW + tick,
        }.items():
            if getattr(adapter, f"{fact}_field"):
                yield pytest.param(name, fact, value, id=f"{name}: {fact}")
        yield pytest.param(name, "status", adapter.finished_statuses[0], id=f"{name}: finished")
        yield pytest.param(name, "status", "odd", id=f"{name}: odd status")
        yield pytest.param(name, "started", None, id=f"{name}: no start any more")
        yield pytest.param(name, "task_id", "", id=f"{name}: id emptied")


@pytest.mark.parametrize("action", [Action.FAIL, Action.REQUEUE, Action.CLOSE])
@pytest.mark.parametrize(("name", "fact", "value"), list(changed_since()))
def test_apply_skips_run_changed_since_read(parcels, name, fact, value, action):
    kind = KINDS[name]
    row, other = make(kind), make(kind)
    changes = [change(kind, each, action, new_task_id=str(uuid4())) for each in (row, other)]
    kind.adapter.model_class.objects.filter(pk=row.pk).update(**{getattr(kind.adapter, f"{fact}_field"): value})
    now = kind.adapter.get(str(row.pk))
    assert apply(kind, *changes) == changes[1:]
    assert kind.adapter.get(str(row.pk)) == now
    assert column(kind, row, "message") in ("", None)


def test_apply_skips_deleted_run(kind):
    row, other = make(kind), make(kind)
    changes = [change(kind, each) for each in (row, other)]
    row.delete()
    assert apply(kind, *changes) == changes[1:]


def test_apply_skips_finished_run_even_if_unchanged(kind):
    row = make(kind, Phase.FINISHED)
    assert apply(kind, change(kind, row, Action.REQUEUE, new_task_id="t2")) == []
    assert column(kind, row, "status") == kind.adapter.finished_statuses[0]


def test_apply_without_updates_does_nothing(kind):
    assert apply(kind) == []


def test_apply_twice_writes_once(kind):
    row = make(kind)
    mine = change(kind, row)
    assert apply(kind, mine) == [mine]
    assert apply(kind, mine) == []
    assert column(kind, row, "message") == "Because."


def test_apply_of_many_runs_takes_few_statements(kind, django_assert_max_num_queries):
    rows = [make(kind) for _ in range(20)]
    changes = [change(kind, row, Action.REQUEUE, new_task_id=str(uuid4())) for row in rows]
    with django_assert_max_num_queries(4):  # savepoint, lock, update, release
        assert len(apply(kind, *changes)) == 20


def test_apply_of_full_batch_writes_all(parcels):
    kind = KINDS["parcel"]
    Parcel.objects.bulk_create(Parcel(stage="underway", job=f"t{n}", picked=NOW - HOUR) for n in range(500))
    (page,) = kind.adapter.iter_unfinished(Phase.RUNNING)
    changes = [RunUpdate(run, Decision(Action.REQUEUE, Reason.TIMED_OUT), "", f"new-{run.task_id}") for run in page]
    assert len(apply(kind, *changes)) == 500
    assert set(Parcel.objects.values_list("stage", flat=True)) == {"again"}
    assert Parcel.objects.values_list("job", flat=True).distinct().count() == 500


@on_postgresql
@pytest.mark.django_db(transaction=True)
def test_apply_skips_locked_row_without_waiting(kind):
    locked, free = make(kind), make(kind)
    changes = [change(kind, row) for row in (locked, free)]
    table, key = connection.ops.quote_name(locked._meta.db_table), locked._meta.pk.column
    other = connection.copy()
    try:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute(f"SELECT 1 FROM {table} WHERE {key} = %s FOR UPDATE", [locked.pk])  # noqa: S608
            with connection.cursor() as mine:
                mine.execute("SET statement_timeout = '5s'")
            assert apply(kind, *changes) == changes[1:]
        other.rollback()
        assert column(kind, locked, "status") == kind.adapter.running_statuses[0]
        assert apply(kind, changes[0]) == changes[:1]
    finally:
        other.close()
        with connection.cursor() as mine:
            mine.execute("RESET statement_timeout")


def test_apply_cuts_message_to_column_length(parcels):
    kind = KINDS["parcel"]
    row = make(kind, message="e" * 50)
    apply(kind, change(kind, row, message="n" * 500))
    assert column(kind, row, "message") == "e" * 50 + "\n" + "n" * 9


def test_apply_guards_null_task_id_like_any_other(parcels):
    kind = KINDS["parcel"]
    null, empty, moved = make(kind, task_id=None), make(kind, task_id=""), make(kind, task_id=None)
    changes = [change(kind, row) for row in (null, empty, moved)]
    Parcel.objects.filter(pk=moved.pk).update(job="t9")
    assert apply(kind, *changes) == changes[:2]
    assert [column(kind, row, "status") for row in (null, empty, moved)] == ["lost", "lost", "underway"]


def test_apply_with_shared_task_id_writes_only_its_run(parcels):
    kind = KINDS["parcel"]
    stuck, healthy = make(kind, ago=HOUR, task_id="t1"), make(kind, task_id="t1")
    assert len(apply(kind, change(kind, stuck))) == 1
    assert column(kind, healthy, "status") == "underway"


def test_several_queued_statuses_are_read_and_one_is_written(parcels):
    kind = KINDS["parcel"]
    rows = [make(kind, Phase.QUEUED, status=status) for status in ("again", "new")]
    assert set(seen(kind, Phase.QUEUED)) == {str(row.pk) for row in rows}
    apply(kind, *[change(kind, row, Action.REQUEUE, new_task_id=str(row.pk)) for row in rows])
    assert {column(kind, row, "status") for row in rows} == {"again"}


def test_apply_of_mixed_statuses_guards_each_row_by_its_own(parcels):
    kind = KINDS["parcel"]
    rows = [make(kind, Phase.QUEUED, status=status, task_id="t1") for status in ("again", "new")]
    changes = [change(kind, row) for row in rows]
    Parcel.objects.filter(pk=rows[1].pk).update(stage="again")
    assert apply(kind, *changes) == changes[:1]


@pytest.mark.django_db
def test_apply_to_child_does_not_lock_parent(django_assert_max_num_queries):
    kind = KINDS["source_result"]
    row = make(kind)
    mine = change(kind, row)
    with django_assert_max_num_queries(4) as queries:
        apply(kind, mine)
    assert not [query for query in queries if '"crawl_jobs"' in query["sql"]]


@pytest.mark.django_db
def test_apply_with_row_changed_under_lock_writes_nothing(monkeypatch):
    """The second condition, for databases whose locks are only promised: another's write between lock and update."""
    row = running_job(HOUR)
    kind = KINDS["crawl_job"]
    mine = change(kind, row)
    is_unchanged = kind.adapter._is_unchanged

    def meanwhile(run, values):
        answer = is_unchanged(run, values)
        CrawlJob.objects.filter(pk=row.pk).update(task_id="another", pages_crawled=F("pages_crawled") + 1)
        return answer

    monkeypatch.setattr(kind.adapter, "_is_unchanged", meanwhile)
    with pytest.raises(RuntimeError, match="changed while they were locked"):
        apply(kind, mine)
    assert fresh(row).status == "running"
