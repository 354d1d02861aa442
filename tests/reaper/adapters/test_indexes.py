"""Every query of a sweep and every write of a worker finds its rows by an index, however many rows there are."""

import re

import pytest
from django.db import connection, models, transaction
from django.test.utils import CaptureQueriesContext, isolate_apps

from apps.sources import claims, runs
from apps.sources.models import CrawlJob, CrawlJobSourceResult, Source
from reaper.conf import settings as conf
from reaper.core.facts import Phase
from reaper.db.pagination import PAGE
from reaper.models import LedgerEntry
from reaper.sweeps.parents import finalize_parents
from reaper.sweeps.sweep import sweep
from tests.factories import COMMITTED, SECOND
from tests.plugin.adapter import Parcels

ON_POSTGRESQL = pytest.mark.skipif(connection.vendor != "postgresql", reason="the plans are PostgreSQL's")


# --- what is asked of a model -------------------------------------------------------------------------------------


def lines(adapter):
    """The lines of Python that the check asks for."""
    said = adapter.check()
    assert {each.id for each in said} <= {"reaper.W020"}
    return [each.hint.removeprefix("Add to its Meta.indexes: ").removesuffix(",") for each in said]


def test_host_models_have_all_required_indexes():
    assert [lines(adapter) for adapter in conf.adapters().values()] == [[], []]


def test_model_without_indexes_gets_each_line_to_add():
    adapter = parcels_with(models.TextField(null=True))
    assert lines(adapter) == [
        "models.Index(fields=['made', 'id'], condition=models.Q(stage='new'), name='parcel_new')",
        "models.Index(fields=['made', 'id'], condition=models.Q(stage='again'), name='parcel_again')",
        "models.Index(fields=['picked', 'id'], condition=models.Q(stage='underway'), name='parcel_underway')",
        "models.Index(fields=['id'], condition=~models.Q(stage__in=['new', 'again', 'underway', 'done', 'lost'])"
        " | models.Q(stage=None), name='parcel_unknown')",
    ]
    (message,) = {each.msg for each in adapter.check() if "unknown" in each.msg}
    assert message == (
        "parcel: plugin.Parcel has no index for rows of an unknown status: every sweep reads the whole table."
    )


def parcels_with(field, *indexes):
    """An adapter of parcels whose model has these indexes."""

    class Meta:
        app_label = "plugin"

    Meta.indexes = list(indexes)
    columns = {name: models.DateTimeField(null=True) for name in ("made", "picked")}
    columns |= {"stage": field, "job": models.TextField(), "note": models.TextField()}
    with isolate_apps("tests.plugin"):
        model = type("Parcel", (models.Model,), {**columns, "Meta": Meta, "__module__": __name__})
    return type("Indexed", (Parcels,), {"model_class": model})()


def test_model_with_suggested_indexes_gets_no_warning():
    hints = lines(parcels_with(models.TextField(null=True)))
    assert len(hints) == 4
    assert lines(parcels_with(models.TextField(null=True), *(eval(each) for each in hints))) == []  # noqa: S307


@pytest.mark.parametrize(
    ("field", "indexes"),
    [
        (models.TextField(db_index=True), []),
        (models.TextField(), [models.Index(fields=["stage"], name="a")]),
        (models.TextField(), [models.Index(fields=["-stage", "made"], name="a")]),
    ],
    ids=["column", "index", "with another column"],
)
def test_plain_status_index_serves_all_but_unmapped_rows(field, indexes):
    (line,) = lines(parcels_with(field, *indexes))
    assert line.endswith(
        "condition=~models.Q(stage__in=['new', 'again', 'underway', 'done', 'lost']), name='parcel_unknown')"
    )


def test_statuses_may_be_choices_or_numbers():
    class Stage(models.IntegerChoices):
        NEW, BUSY, DONE = 1, 2, 3

    adapter = parcels_with(models.IntegerField())
    adapter.queued_statuses, adapter.running_statuses, adapter.finished_statuses = (Stage.NEW,), (2,), (Stage.DONE,)
    hints = lines(adapter)
    assert hints[:2] == [
        "models.Index(fields=['made', 'id'], condition=models.Q(stage=1), name='parcel_1')",
        "models.Index(fields=['picked', 'id'], condition=models.Q(stage=2), name='parcel_2')",
    ]
    assert "models.Q(stage__in=[1, 2, 3])" in hints[2]


@pytest.mark.parametrize(
    "index",
    [
        models.Index(fields=["made"], name="a"),
        models.Index(fields=["job", "stage"], name="a"),
        models.Index(fields=["picked"], condition=models.Q(stage="new"), name="a"),
        models.Index(fields=["made"], condition=models.Q(stage="done"), name="a"),
        models.Index(models.F("stage"), name="a"),
    ],
    ids=["no status", "not led by it", "another column", "another status", "an expression"],
)
def test_index_on_other_columns_does_not_serve(index):
    assert len(lines(parcels_with(models.TextField(), index))) == 4


# --- what PostgreSQL does with them -------------------------------------------------------------------------------

FINISHED, STUCK, PARENTS = 30_000, 6_000, 7_000
# More than a page and what the planner thinks that it might be, less than any table.
FEW = 1_500

FILL = """
INSERT INTO crawl_jobs (id, source_id, is_multi_source, status, triggered_by, config_overrides, created_at, queued_at,
    started_at, heartbeat_at, completed_at, finalized_at, task_id, worker, pages_crawled, total_found, new_articles,
    duplicates, errors, error_message, error_code)
SELECT gen_random_uuid(), %(source)s, %(source)s IS NULL, %(status)s, 'manual', '{}', at, at, at, at,
    CASE WHEN %(ended)s THEN at END, CASE WHEN %(ended)s THEN at END,
    CASE WHEN %(source)s IS NULL THEN '' ELSE gen_random_uuid()::text END, 'celery@dead/abc', 0, 0, 0, 0, 0, '', ''
FROM (SELECT now() - interval '1 day' - number * %(apart)s AS at FROM generate_series(1, %(rows)s) number) stamps
"""
FILL_CHILDREN = """
INSERT INTO crawl_job_source_results (id, crawl_job_id, source_id, status, created_at, queued_at, started_at,
    heartbeat_at, completed_at, task_id, worker, articles_found, articles_new, articles_duplicate, pages_crawled,
    errors_count, error_message, error_code)
SELECT gen_random_uuid(), crawl_jobs.id, sources.id, 'completed', created, created, created, created, created,
    gen_random_uuid()::text, '', 0, 0, 0, 0, 0, '', ''
FROM (SELECT id, created_at AS created FROM crawl_jobs WHERE source_id IS NULL) crawl_jobs, sources
"""


@pytest.fixture
def full(transactional_db, broker, limits):
    """Tables with many ended rows, and many stuck ones among them."""
    sources = [Source.objects.create(name=f"source {number}", url="http://site/").pk for number in range(5)]
    with connection.cursor() as cursor:
        for source, status, rows, apart in (
            (sources[0], "completed", FINISHED, SECOND),
            (None, "completed", PARENTS, SECOND),
            (sources[0], "running", STUCK, SECOND),
            # Dispatched all at once.
            (sources[0], "pending", STUCK, 0 * SECOND),
        ):
            values = {"source": source, "status": status, "rows": rows, "ended": status == "completed", "apart": apart}
            cursor.execute(FILL.replace("%(source)s IS NULL", "%(source)s::uuid IS NULL"), values)
        cursor.execute(FILL_CHILDREN)
        for status, rows in (("running", STUCK), ("pending", STUCK)):
            cursor.execute(
                "UPDATE crawl_job_source_results SET status = %s, completed_at = NULL WHERE id IN"
                " (SELECT id FROM crawl_job_source_results WHERE status = 'completed' ORDER BY id LIMIT %s)",
                [status, rows],
            )
        # The indexes still have the rows that other tests have rolled back. The server's shared tables stay out of it:
        # whoever else analyzes them waits.
        cursor.execute(f"VACUUM (ANALYZE) {', '.join(connection.introspection.table_names(cursor))}")


def read(sql, few):
    """The nodes of a query's plan that read more than a few rows only to leave them out, or read all of them."""
    with transaction.atomic(), connection.cursor() as cursor:
        # A table of this size is soon read as a whole; a larger one must not be.
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
        plan = cursor.fetchone()[0][0]["Plan"]
        transaction.set_rollback(True)
    return [each for each in nodes(plan) if removed(each, few) > few]


def nodes(plan):
    """A node of a plan and all below it."""
    return [plan, *(node for child in plan.get("Plans", []) for node in nodes(child))]


def removed(node, few):
    """How many rows a node read in vain; of what is read as a whole, how many there are."""
    in_vain = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Join Filter", 0)
    is_whole = node["Node Type"] == "Seq Scan" or ("Scan" in node["Node Type"] and node["Actual Rows"] > few)
    return in_vain + (node["Actual Rows"] if is_whole else 0)


def slow(work, few=FEW):
    """What the work asks the database that reads rows in vain."""
    with CaptureQueriesContext(connection) as asked:
        work()
    said = [each["sql"] for each in asked if each["sql"].startswith(("SELECT", "UPDATE", "DELETE"))]
    assert said
    # The first of each shape, behind which lies the most.
    shapes = {re.sub(r"'[^']*'", "", sql): sql for sql in reversed(said)}
    return {sql: found for sql in shapes.values() if (found := read(sql, few))}


@COMMITTED
@ON_POSTGRESQL
def test_sweep_queries_read_only_rows_they_return(full, settings, monkeypatch):
    settings.REAPER = {**settings.REAPER, "MAX_ACTIONS": 20}
    # For a cursor of the server's PostgreSQL makes another plan, one that finds the first rows soon.
    monkeypatch.setattr(connection, "chunked_cursor", None)
    for adapter in conf.adapters().values():
        # Any of the unfinished may have children: it looks at all of them, once.
        assert slow(lambda adapter=adapter: finalize_parents(adapter), STUCK) == {}
        for phase in (Phase.RUNNING, Phase.QUEUED):
            assert slow(lambda adapter=adapter, phase=phase: sweep(adapter, phase)) == {}


@COMMITTED
@ON_POSTGRESQL
def test_worker_writes_read_only_rows_they_change(full):
    job = CrawlJob.objects.filter(status="pending").first()
    hold = claims.Claim(model=CrawlJob, pk=job.pk, task_id=job.task_id, worker="celery@w/abc")
    assert slow(lambda: claims.claim(CrawlJob, job.pk, job.task_id, "celery@w/abc")) == {}
    assert slow(lambda: hold.progress({"pages": 1})) == {}
    assert slow(lambda: hold.complete({"pages": 2})) == {}
    assert CrawlJob.objects.get(pk=job.pk).status == "completed"


@COMMITTED
@ON_POSTGRESQL
def test_explain_detects_query_that_reads_whole_table(full):
    """Or the tests above could not fail."""
    assert slow(lambda: list(CrawlJob.objects.filter(error_code="none")))
    assert slow(lambda: list(CrawlJobSourceResult.objects.order_by("pk").filter(error_code="none")[:1]))
    assert not slow(lambda: list(LedgerEntry.objects.filter(pk=1)))


@pytest.mark.django_db
def test_runs_with_equal_timestamps_are_all_read_once(limits):
    at = conf.adapters()["crawl_job"].model_class._meta.get_field("created_at").default()
    source = Source.objects.create(name="source", url="http://site/")
    jobs = [CrawlJob(source=source, status="running", created_at=at, started_at=at) for _ in range(2 * PAGE + 1)]
    CrawlJob.objects.bulk_create(jobs)
    pages = list(conf.adapters()["crawl_job"].iter_unfinished(Phase.RUNNING))
    assert [len(page) for page in pages] == [PAGE, PAGE, 1]
    assert sorted(run.pk for page in pages for run in page) == sorted(str(job.pk) for job in jobs)


@COMMITTED
@ON_POSTGRESQL
def test_progress_write_touches_no_indexed_column(transactional_db):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid"
            " AND a.attnum = ANY(i.indkey) WHERE i.indrelid::regclass::text LIKE 'crawl%'"
        )
        indexed = {name for (name,) in cursor.fetchall()}
    totals = {name for columns in runs.TOTALS.values() for name in columns.values()}
    assert "started_at" in indexed
    assert indexed & {"heartbeat_at", *totals} == set()
