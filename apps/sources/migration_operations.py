"""Migration operations for PostgreSQL's storage and statistics options. On other databases they do nothing."""

from typing import Any

from django.db.migrations.operations import RunSQL


class OnPostgreSQL(RunSQL):
    """A statement, and the one that reverses it, that only PostgreSQL knows."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Execute the statement."""
        if schema_editor.connection.vendor == "postgresql":
            super().database_forwards(app_label, schema_editor, from_state, to_state)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Reverse it."""
        if schema_editor.connection.vendor == "postgresql":
            super().database_backwards(app_label, schema_editor, from_state, to_state)


class SetStatistics(OnPostgreSQL):
    """Have PostgreSQL sample more rows of a column before it plans: `target` times 300.

    A sample of the default size finds none of the few unfinished rows among millions. The planner then takes any index
    on the status for as good as the primary key, and a worker's write reads all running rows.
    """

    def __init__(self, table: str, column: str, target: int) -> None:
        self.table = table
        self.column = column
        self.target = target
        alter = f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS"
        super().__init__(f"{alter} {target}", f"{alter} -1")

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        """Return the arguments that it was created with."""
        return type(self).__name__, [self.table, self.column, self.target], {}


class SetFillFactor(OnPostgreSQL):
    """Have PostgreSQL fill a table's pages to `percent` with new rows, and keep the rest for new versions of them.

    In a full page a worker's progress finds no room beside its row, and then touches every index: in a table of 10
    million rows half of the writes did, and with pages filled to 80 % none (docs/SCALING.md).
    """

    def __init__(self, table: str, percent: int) -> None:
        self.table = table
        self.percent = percent
        super().__init__(f"ALTER TABLE {table} SET (fillfactor = {percent})", f"ALTER TABLE {table} RESET (fillfactor)")

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        """Return the arguments that it was created with."""
        return type(self).__name__, [self.table, self.percent], {}
