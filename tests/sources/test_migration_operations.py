"""The migration operations: each takes effect, can be reversed, and can be written into a migration."""

import pytest
from django.db import connection, migrations
from django.db.migrations.state import ProjectState

from apps.sources.migration_operations import SetFillFactor, SetStatistics
from apps.sources.models import Source
from tests.factories import COMMITTED

pytestmark = [COMMITTED]

TARGET = "SELECT attstattarget FROM pg_attribute WHERE attrelid = 'crawl_jobs'::regclass AND attname = %s"

OPTIONS = "SELECT reloptions FROM pg_class WHERE oid = %s::regclass"


def query(sql, *values):
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

    return move


@pytest.mark.skipif(connection.vendor != "postgresql", reason="the others have no such statistics")
def test_statistics_target_is_raised_and_reset(migrate):
    assert query(TARGET, "status") == (1000,)
    before = query(TARGET, "worker")
    migrate(SetStatistics("crawl_jobs", "worker", 500))
    assert query(TARGET, "worker") == (500,)
    migrate(SetStatistics("crawl_jobs", "worker", 500), back=True)
    assert query(TARGET, "worker") == before


@pytest.mark.skipif(connection.vendor != "postgresql", reason="the others have no such option")
def test_fill_factor_is_set_and_reset(migrate):
    for table in ("crawl_jobs", "crawl_job_source_results"):
        assert query(OPTIONS, table) == (["fillfactor=80"],)
    migrate(SetFillFactor("sources", 90))
    assert query(OPTIONS, "sources") == (["fillfactor=90"],)
    migrate(SetFillFactor("sources", 90), back=True)
    assert query(OPTIONS, "sources") == (None,)


@pytest.mark.parametrize("operation", [SetStatistics("sources", "status", 10), SetFillFactor("sources", 90)])
def test_operation_can_be_written_into_a_migration(operation):
    name, args, kwargs = operation.deconstruct()
    again = globals()[name](*args, **kwargs)
    assert isinstance(again, migrations.operations.base.Operation)
    assert again.deconstruct() == operation.deconstruct()
