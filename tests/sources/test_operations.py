"""Migrations of tables in use: an index that an interrupted build left is built anew, and all can be taken back."""

import psycopg2
import pytest
from django.db import connection, migrations, models
from django.db.migrations.state import ProjectState

from apps.sources.models import Source
from apps.sources.operations import AddIndexOnline, SetFillFactor, SetStatistics
from tests.worlds import COMMITTED

pytestmark = [COMMITTED]

INDEX = models.Index(fields=["name"], name="sources_by_name")
STATE = "SELECT indisvalid, indisunique FROM pg_index WHERE indexrelid = to_regclass('sources_by_name')"
TARGET = "SELECT attstattarget FROM pg_attribute WHERE attrelid = 'crawl_jobs'::regclass AND attname = %s"

OPTIONS = "SELECT reloptions FROM pg_class WHERE oid = %s::regclass"


def asked(sql, *values):
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchone()


@pytest.fixture
def migrate(transactional_db):
    """A function that does an operation, or undoes it."""
    state = ProjectState.from_apps(Source._meta.apps)

    def move(operation, *, back=False):
        with connection.schema_editor(atomic=False) as editor:
            direction = operation.database_backwards if back else operation.database_forwards
            direction("sources", editor, state, state)

    yield move
    with connection.cursor() as cursor:
        cursor.execute("DROP INDEX IF EXISTS sources_by_name")


@pytest.mark.skipif(connection.vendor != "postgresql", reason="elsewhere no build can be interrupted")
def test_what_an_interrupted_build_left_is_built_anew(migrate):
    Source.objects.create(name="is_confirmed", url="http://site/")
    Source.objects.create(name="is_confirmed", url="http://site/")
    with connection.cursor() as cursor, pytest.raises(Exception, match="sources_by_name") as interrupted:
        cursor.execute("CREATE UNIQUE INDEX CONCURRENTLY sources_by_name ON sources (name)")
    assert isinstance(interrupted.value.__cause__, psycopg2.errors.UniqueViolation)
    assert asked(STATE) == (False, True)
    operation = AddIndexOnline("source", INDEX)
    migrate(operation)
    assert asked(STATE) == (True, False)
    migrate(operation)
    assert asked(STATE) == (True, False), "what is there is left alone"
    migrate(operation, back=True)
    assert asked(STATE) is None


def test_the_index_is_there_on_every_database_and_can_be_dropped(migrate):
    def has_it():
        with connection.cursor() as cursor:
            return INDEX.name in connection.introspection.get_constraints(cursor, "sources")

    operation = AddIndexOnline("source", INDEX)
    migrate(operation)
    assert has_it()
    migrate(operation, back=True)
    assert not has_it()


@pytest.mark.skipif(connection.vendor != "postgresql", reason="the others have no such statistics")
def test_the_statistics_of_the_status_are_those_of_a_rare_value(migrate):
    assert asked(TARGET, "status") == (1000,)
    before = asked(TARGET, "worker")
    migrate(SetStatistics("crawl_jobs", "worker", 500))
    assert asked(TARGET, "worker") == (500,)
    migrate(SetStatistics("crawl_jobs", "worker", 500), back=True)
    assert asked(TARGET, "worker") == before


@pytest.mark.skipif(connection.vendor != "postgresql", reason="the others have no such option")
def test_pages_keep_room_for_the_next_versions_of_their_rows(migrate):
    for table in ("crawl_jobs", "crawl_job_source_results"):
        assert asked(OPTIONS, table) == (["fillfactor=80"],)
    migrate(SetFillFactor("sources", 90))
    assert asked(OPTIONS, "sources") == (["fillfactor=90"],)
    migrate(SetFillFactor("sources", 90), back=True)
    assert asked(OPTIONS, "sources") == (None,)


@pytest.mark.parametrize(
    "operation", [AddIndexOnline("source", INDEX), SetStatistics("sources", "status", 10), SetFillFactor("sources", 90)]
)
def test_an_operation_can_be_written_into_a_migration(operation):
    name, args, kwargs = operation.deconstruct()
    again = globals()[name](*args, **kwargs)
    assert isinstance(again, migrations.operations.base.Operation)
    assert again.deconstruct() == operation.deconstruct()
