"""Reading the runs of a model: their facts, their pages, their messages and their parents."""

from uuid import uuid4

import pytest

from apps.sources.models import CrawlJob, CrawlJobSourceResult
from apps.sources.reaping import CrawlJobs, SourceResults
from reaper.adapters import Message, RunUpdate
from reaper.core.decisions import Decision
from reaper.core.facts import Phase, RunFacts
from reaper.core.policy import Action
from reaper.core.reasons import Reason
from reaper.db import pagination as reading
from tests.factories import NOW, SECOND, child, parent, queued_job, running_job, source
from tests.plugin.adapter import Parcels
from tests.reaper.adapters.kinds import (
    HOUR,
    KINDS,
    PHASES,
    apply,
    make,
    seen,
)


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


def test_get_all_skips_impossible_keys_and_returns_the_others(kind):
    row = make(kind)
    beyond_every_column = str(10**30)
    found = kind.adapter.get_all([*kind.unknown_keys, beyond_every_column, str(row.pk)])
    assert [run.pk for run in found] == [str(row.pk)]


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
def test_child_facts_tell_whether_parent_has_ended(status, ended):
    job = parent("running", status=status)
    run = SourceResults().get(str(job.source_results.get().pk))
    assert run.parent == str(job.pk)
    assert run.parent_ended == ended


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


@pytest.mark.django_db
def test_model_class_is_found_by_label():
    assert CrawlJobs().model_class is CrawlJob
    assert SourceResults().model_class is CrawlJobSourceResult
    assert CrawlJobs().using == "default"
