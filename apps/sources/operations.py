"""Migrations of tables that are large and in use."""

from typing import Any

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db.migrations.operations import AddIndex, RunSQL


class AddIndexOnline(AddIndexConcurrently):
    """Build an index while the table is written to, where the database can (PostgreSQL); elsewhere plainly.

    One that an interrupted build left behind, which the database keeps up and never uses, is dropped first. Its
    migration must not be atomic.
    """

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Build the index."""
        if schema_editor.connection.vendor != "postgresql":
            AddIndex.database_forwards(self, app_label, schema_editor, from_state, to_state)
            return
        with schema_editor.connection.cursor() as cursor:
            cursor.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [self.index.name])
            found = cursor.fetchone()
        if found == (False,):
            model = to_state.apps.get_model(app_label, self.model_name)
            schema_editor.remove_index(model, self.index, concurrently=True)
        if found != (True,):
            super().database_forwards(app_label, schema_editor, from_state, to_state)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Drop the index."""
        plain = schema_editor.connection.vendor != "postgresql"
        drop = AddIndex.database_backwards if plain else AddIndexConcurrently.database_backwards
        drop(self, app_label, schema_editor, from_state, to_state)


class OnPostgreSQL(RunSQL):
    """A statement, and the one that undoes it, that only PostgreSQL knows. Elsewhere nothing is done."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Execute the statement."""
        if schema_editor.connection.vendor == "postgresql":
            super().database_forwards(app_label, schema_editor, from_state, to_state)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Undo it."""
        if schema_editor.connection.vendor == "postgresql":
            super().database_backwards(app_label, schema_editor, from_state, to_state)


class SetStatistics(OnPostgreSQL):
    """Have PostgreSQL look at more rows of a column before it plans: `target` times 300.

    Of the few unfinished rows among millions a sample of the default size finds none. The planner then takes any index
    on the status for as good as the primary key, and a worker's write reads all running rows.
    """

    def __init__(self, table: str, column: str, target: int) -> None:
        self.table, self.column, self.target = table, column, target
        alter = f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS"
        super().__init__(f"{alter} {target}", f"{alter} -1")

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        """Return how it was made."""
        return type(self).__name__, [self.table, self.column, self.target], {}


class SetFillFactor(OnPostgreSQL):
    """Have PostgreSQL fill a table's pages to so many percent with new rows, and keep the rest for their next versions.

    In a full page a worker's progress finds no room beside its row, and then touches every index: in a table of 10
    million rows half of the writes did, and with pages filled to 80 % none (docs/SCALING.md).
    """

    def __init__(self, table: str, percent: int) -> None:
        self.table, self.percent = table, percent
        super().__init__(f"ALTER TABLE {table} SET (fillfactor = {percent})", f"ALTER TABLE {table} RESET (fillfactor)")

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        """Return how it was made."""
        return type(self).__name__, [self.table, self.percent], {}
