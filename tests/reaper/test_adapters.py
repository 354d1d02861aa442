"""The seam: one conformance suite for every adapter (the host's two and a silly one), then what only some have."""

from datetime import timedelta
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.db.models import F

from apps.sources.models import CrawlJob, CrawlJobSourceResult
from apps.sources.reaping import CrawlJobs, SourceResults
from reaper.adapters import Message, ModelRunAdapter, RunAdapter, RunUpdate
from reaper.core.decisions import Decision
from reaper.core.facts import Phase, RunFacts
from reaper.core.policy import Action
from reaper.core.reasons import Reason
from reaper.db import pagination as reading
from tests.factories import NOW, SECOND, child, fresh, parent, queued_job, running_job, source
from tests.plugin.adapter import Parcels
from tests.plugin.models import Parcel

HOUR = timedelta(hours=1)
PHASES = (Phase.QUEUED, Phase.RUNNING)
on_postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="needs SKIP LOCKED")


class Kind(NamedTuple):
    """An adapter and what its rows need besides the columns that it names."""

    adapter: ModelRunAdapter
    needed: Any
    unknown_keys: tuple


NO_UUIDS = ("", "x", "7", "None", str(uuid4()), "KIND:ID", "\x00")
KINDS = {
    "crawl_job": Kind(CrawlJobs(), lambda: {"source": source()}, NO_UUIDS),
    "source_result": Kind(SourceResults(), lambda: {"source": source(), "crawl_job": parent()}, NO_UUIDS),
    "parcel": Kind(Parcels(), dict, ("", "x", "1.5", "-1", "None", "9" * 40, str(uuid4()), "\x00")),
}


@pytest.fixture(params=KINDS)
def kind(request, parcels):
    return KINDS[request.param]


def make(kind, phase=Phase.RUNNING, ago=timedelta(0), **facts):
    """A row of the kind whose phase began `ago`; `facts` by their names in RunFacts, as far as the kind has them."""
    adapter = kind.adapter
    stamps = {"created": NOW - ago, "queued": NOW - ago}
    if phase is Phase.RUNNING:
        stamps["started"] = NOW - ago
    status = {
        Phase.QUEUED: adapter.queued_statuses,
        Phase.RUNNING: adapter.running_statuses,
        Phase.FINISHED: adapter.finished_statuses,
    }[phase][0]
    values = {"status": status, "task_id": str(uuid4()), **stamps, **facts}
    columns = {getattr(adapter, f"{name}_field"): value for name, value in values.items()}
    columns.pop(None, None)
    return adapter.model_class.objects.create(**kind.needed(), **columns)


def column(kind, row, name):
    """What the database has now in the column that the adapter names so."""
    return getattr(fresh(row), getattr(kind.adapter, f"{name}_field"))


def change(kind, row, action=Action.FAIL, message="Because.", new_task_id=""):
    """The change of a row as it is now."""
    run = kind.adapter.get(str(row.pk))
    return RunUpdate(run, Decision(action, Reason.TIMED_OUT), message, new_task_id)


def apply(kind, *changes):
    with transaction.atomic():
        return kind.adapter.apply(changes, NOW)


def seen(kind, phase):
    return [run.pk for page in kind.adapter.iter_unfinished(phase) for run in page]


# --- reading ------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_adapter_check_of_working_adapter_is_empty(kind):
    assert kind.adapter.check() == []


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_status_maps_to_one_phase_and_unmapped_to_unknown(kind):
    adapter = kind.adapter
    for phase, statuses in zip(
        Phase, (adapter.queued_statuses, adapter.running_statuses, adapter.finished_statuses), strict=False
    ):
        assert [adapter.phase_of(status) for status in statuses] == [phase] * len(statuses)
    for odd in ("", None, "RUNNING", "paused", 7, "running "):
        assert adapter.phase_of(odd) is Phase.UNKNOWN
    assert adapter.status_after_requeue in adapter.queued_statuses
    assert adapter.status_after_fail in adapter.finished_statuses
    assert adapter.status_after_close in adapter.finished_statuses


@pytest.mark.parametrize("phase", PHASES)
def test_iter_unfinished_yields_asked_phase_oldest_first(kind, phase):
    rows = {ago: make(kind, phase, ago * SECOND) for ago in (5, 9, 1)}
    make(kind, Phase.FINISHED, HOUR)
    make(kind, Phase.RUNNING if phase is Phase.QUEUED else Phase.QUEUED, HOUR)
    assert seen(kind, phase) == [str(rows[ago].pk) for ago in (9, 5, 1)]


@pytest.mark.parametrize("phase", PHASES)
def test_iter_unfinished_yields_runs_without_timestamp_first(kind, phase):
    columns = ["queued", "started"] if kind.adapter.queued_field else ["created", "started"]
    dated = make(kind, phase, 365 * 24 * HOUR)
    undated = make(kind, phase, **dict.fromkeys(columns))
    assert seen(kind, phase) == [str(undated.pk), str(dated.pk)]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_iter_unfinished_pages_yield_every_run_once(kind, phase, count, monkeypatch):
    monkeypatch.setattr(reading, "PAGE", 3)
    column = "created" if not kind.adapter.queued_field else "queued" if phase is Phase.QUEUED else "started"
    column = "started" if phase is Phase.RUNNING else column
    undated = [make(kind, phase, **{column: None}) for _ in range(count)]
    same_moment = [make(kind, phase, HOUR) for _ in range(count)]
    later = [make(kind, phase, second * SECOND) for second in range(count)]
    pages = list(kind.adapter.iter_unfinished(phase))
    found = [run.pk for page in pages for run in page]
    assert sorted(found) == sorted(str(row.pk) for row in (*undated, *same_moment, *later))
    assert all(0 < len(page) <= 3 for page in pages)
    assert found[count * 2 :] == [str(row.pk) for row in reversed(later)]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("gone", ["deleted", "reaped", "requeued"])
def test_iter_unfinished_with_vanishing_rows_hides_no_others(kind, phase, gone, monkeypatch):
    monkeypatch.setattr(reading, "PAGE", 2)
    rows = [make(kind, phase, (9 - number) * SECOND) for number in range(5)]
    found = []
    for page in kind.adapter.iter_unfinished(phase):
        found += [run.pk for run in page]
        for run in page:
            if gone == "deleted":
                kind.adapter.model_class.objects.filter(pk=run.pk).delete()
            else:
                action = Action.FAIL if gone == "reaped" else Action.REQUEUE
                acted = apply(kind, RunUpdate(run, Decision(action, Reason.LOST), "", str(uuid4())))
                assert len(acted) == 1
        if len(found) > 20:
            break
    # A requeued run stands at the end of the queue and may be met there again; the sweep knows those.
    assert list(dict.fromkeys(found)) == [str(row.pk) for row in rows]


def test_iter_unfinished_page_is_one_query(kind, django_assert_num_queries):
    make(kind, Phase.RUNNING)
    make(kind, Phase.RUNNING, HOUR, started=None)
    with django_assert_num_queries(4):  # the undated, the dated, and the empty page behind each
        seen(kind, Phase.RUNNING)


def test_get_returns_the_facts_of_the_row(kind):
    row = make(kind, Phase.RUNNING, HOUR, task_id="t1", progress=NOW - SECOND, worker="celery@w1/abc")
    run = kind.adapter.get(str(row.pk))
    assert run == next(run for page in kind.adapter.iter_unfinished(Phase.RUNNING) for run in page)
    has = {name for name in ("queued", "progress", "worker") if getattr(kind.adapter, f"{name}_field")}
    assert run == RunFacts(
        kind=kind.adapter.kind,
        pk=str(row.pk),
        phase=Phase.RUNNING,
        status=kind.adapter.running_statuses[0],
        task_id="t1",
        worker="celery@w1/abc" if "worker" in has else "",
        created_at=NOW - HOUR,
        queued_at=NOW - HOUR if "queued" in has else None,
        started_at=NOW - HOUR,
        progress_at=NOW - SECOND if "progress" in has else None,
        parent=str(row.crawl_job_id) if kind.adapter.parent_field else None,
        parent_ended=False,
    )


def test_unmapped_status_has_unknown_phase_and_is_not_unfinished(kind):
    row = make(kind, status="odd")
    assert kind.adapter.get(str(row.pk)).phase is Phase.UNKNOWN
    assert kind.adapter.get(str(row.pk)).status == "odd"
    assert seen(kind, Phase.RUNNING) == seen(kind, Phase.QUEUED) == []


def test_get_with_impossible_key_is_none(kind):
    make(kind)
    for key in kind.unknown_keys:
        assert kind.adapter.get(key) is None


def test_naive_timestamps_become_aware(kind, settings):
    row = make(kind, ago=HOUR)
    settings.USE_TZ = False
    run = kind.adapter.get(str(row.pk))
    for stamp in (run.created_at, run.started_at):
        assert stamp.utcoffset() is not None
        assert stamp == NOW - HOUR  # TIME_ZONE is UTC


def test_messages_are_keyed_by_run_and_deleted_run_has_none(kind):
    rows = [make(kind) for _ in range(3)]
    runs = [kind.adapter.get(str(row.pk)) for row in rows]
    rows[0].delete()
    messages = kind.adapter.messages(runs)
    assert set(messages) == {str(row.pk) for row in rows[1:]}
    assert all(isinstance(message, Message) for message in messages.values())
    assert kind.adapter.messages([]) == {}


def test_task_ids_in_use_are_those_of_unfinished_runs(kind):
    make(kind, Phase.RUNNING, task_id="r")
    make(kind, Phase.QUEUED, task_id="q")
    make(kind, Phase.FINISHED, task_id="f")
    make(kind, task_id="not asked for")
    assert kind.adapter.task_ids_in_use(["r", "q", "f", "nobody's"]) == {"r", "q"}
    assert kind.adapter.task_ids_in_use([]) == set()


@pytest.mark.parametrize("phase", [*PHASES, Phase.FINISHED])
def test_find_by_task_id_finds_run_in_any_phase(kind, phase):
    row = make(kind, phase, task_id="mine")
    make(kind, phase, task_id="another's")
    assert kind.adapter.find_by_task_id("mine") == kind.adapter.get(str(row.pk))
    assert kind.adapter.find_by_task_id("nobody's") is None
    assert kind.adapter.find_by_task_id("\x00") is None


# --- writing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
def test_apply_fail_ends_run(kind, phase):
    row = make(kind, phase, HOUR, task_id="t1")
    mine = change(kind, row, Action.FAIL)
    assert apply(kind, mine) == [mine]
    assert column(kind, row, "status") == kind.adapter.status_after_fail
    assert column(kind, row, "message") == "Because."
    assert column(kind, row, "task_id") == "t1"
    if kind.adapter.finished_field:
        assert (column(kind, row, "finished"), column(kind, row, "code")) == (NOW, "timed_out")


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
    assert (run.phase, run.status, run.task_id) == (Phase.QUEUED, kind.adapter.status_after_requeue, "t2")
    assert (run.worker, run.started_at, run.progress_at) == ("", None, None)
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


# --- what only some kinds have ------------------------------------------------------------------------------------


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


def test_iter_unfinished_without_timestamp_column_pages_by_key(parcels, monkeypatch):
    class Undated(Parcels):
        created_field = started_field = None

    monkeypatch.setattr(reading, "PAGE", 2)
    rows = [make(KINDS["parcel"]) for _ in range(5)]
    found = [run for page in Undated().iter_unfinished(Phase.RUNNING) for run in page]
    assert [run.pk for run in found] == [str(row.pk) for row in rows]
    assert {run.started_at for run in found} == {None}


@pytest.mark.django_db
def test_parent_job_is_not_a_run():
    job = queued_job()
    parent("pending", "running")
    parent()
    parent("pending", source=source())
    adapter = CrawlJobs()
    assert [run.pk for page in adapter.iter_unfinished(Phase.QUEUED) for run in page] == [str(job.pk)]
    assert list(adapter.iter_unfinished(Phase.RUNNING)) == []


@pytest.mark.django_db
def test_job_that_became_parent_is_no_longer_a_run():
    job = running_job()
    assert CrawlJobs().get(str(job.pk)) is not None
    child(job, "pending")
    assert CrawlJobs().get(str(job.pk)) is None


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("status", "ended"),
    [
        ("pending", False),
        ("running", False),
        ("paused", False),
        ("odd", False),
        ("completed", True),
        ("failed", True),
        ("cancelled", True),
    ],
)
def test_child_facts_say_whether_parent_has_ended(status, ended):
    job = parent("running", status=status)
    run = SourceResults().get(str(job.source_results.get().pk))
    assert (run.parent, run.parent_ended) == (str(job.pk), ended)


@pytest.mark.django_db
def test_apply_to_child_does_not_lock_parent(django_assert_max_num_queries):
    kind = KINDS["source_result"]
    row = make(kind)
    mine = change(kind, row)
    with django_assert_max_num_queries(4) as queries:
        apply(kind, mine)
    assert not [query for query in queries if '"crawl_jobs"' in query["sql"]]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("make_parent", "stuck"),
    [
        pytest.param(lambda: parent("completed", "failed"), True, id="all ended"),
        pytest.param(lambda: parent("completed", status="pending"), True, id="all ended, itself pending"),
        pytest.param(lambda: parent("completed", "running"), False, id="one running"),
        pytest.param(lambda: parent("completed", "pending"), False, id="one pending"),
        pytest.param(lambda: parent("completed", "odd"), False, id="one in an unknown status"),
        pytest.param(lambda: parent(), True, id="no children"),
        pytest.param(lambda: parent("completed", finalized_at=NOW), False, id="finalized already"),
        pytest.param(lambda: parent("completed", status="completed"), False, id="ended by hand"),
        pytest.param(lambda: parent("skipped", status="cancelled"), True, id="cancelled"),
        pytest.param(lambda: parent("skipped", status="paused"), True, id="paused"),
        pytest.param(lambda: parent("running", status="cancelled"), False, id="cancelled, one running"),
        pytest.param(lambda: parent("completed", source=source()), True, id="with a source and children"),
        pytest.param(lambda: running_job(), False, id="a single job"),
    ],
)
def test_finalizable_parents_are_those_with_ended_children(make_parent, stuck):
    job = make_parent()
    assert list(SourceResults().iter_finalizable_parents()) == ([str(job.pk)] if stuck else [])


@pytest.mark.django_db
def test_finalize_writes_once_and_ignores_unknown_keys():
    job = parent("completed")
    adapter = SourceResults()
    assert adapter.finalize(str(job.pk)) is True
    assert adapter.finalize(str(job.pk)) is False
    for key in ("", "x", "None", str(uuid4()), str(child(parent(), "completed").pk)):
        assert adapter.finalize(key) is False


def test_adapter_without_parents_finalizes_nothing(parcels):
    assert list(Parcels().iter_finalizable_parents()) == []
    assert Parcels().finalize("1") is False


@pytest.mark.django_db
@pytest.mark.parametrize("kind", ["crawl_job", "source_result"])
def test_message_of_run_equals_what_dispatch_sends(kind):
    row = make(KINDS[kind])
    run = KINDS[kind].adapter.get(str(row.pk))
    job = {"crawl_job_id": str(row.pk)} if kind == "crawl_job" else {"parent_job_id": str(row.crawl_job_id)}
    assert KINDS[kind].adapter.messages([run]) == {str(row.pk): Message([str(row.source_id)], job)}


# --- a broken plug-in ---------------------------------------------------------------------------------------------


class Mistaken(Parcels):
    task_id_field = "task"
    worker_field = "who"
    created_field = None


class Homeless(Parcels):
    model = "plugin.Letter"


class Nameless(Parcels):
    model = "Parcel"


@pytest.mark.parametrize(
    ("broken", "ids"),
    [(Mistaken, ["reaper.E021", "reaper.E021"]), (Homeless, ["reaper.E020"]), (Nameless, ["reaper.E020"])],
)
def test_adapter_check_of_broken_adapter_reports_ids(parcels, broken, ids):
    found = broken().check()
    assert [each.id for each in found] == ids
    assert all(each.hint for each in found)


def test_adapter_check_names_wrong_columns(parcels):
    said = " ".join(each.msg for each in Mistaken().check())
    assert "task_id_field" in said
    assert "'task'" in said
    assert "worker_field" in said


def test_adapter_without_required_methods_cannot_be_created():
    class Half(RunAdapter):
        kind = task = "half"

    with pytest.raises(TypeError, match="abstract"):
        Half()


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


@pytest.mark.django_db
def test_model_class_is_found_by_label():
    assert CrawlJobs().model_class is CrawlJob
    assert SourceResults().model_class is CrawlJobSourceResult
    assert CrawlJobs().using == "default"
