"""Base classes of the admins: the reaper's tables are large, and nothing in them is changed."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html

from reaper.admin.links import change_url
from reaper.conf import settings as conf
from reaper.ledger.manual import PARENT_SUFFIX


class ReadOnlyMixin:
    """For a `ModelAdmin` or an inline in which nothing is added, changed or deleted."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: read-only."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: read-only."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: read-only."""
        return False


class ReadOnlyAdmin(ReadOnlyMixin, admin.ModelAdmin):
    """A table that is only read, and may be large. `prune_history` deletes its old rows."""

    show_full_result_count = False
    list_per_page = 50
    # By key: newest first without sorting the table.
    ordering = ("-pk",)


class RunRecordAdmin(ReadOnlyAdmin):
    """Rows about one run each."""

    def get_search_results(self, request: HttpRequest, queryset: QuerySet, search_term: str) -> tuple[QuerySet, bool]:
        """Search, also for KIND:ID as the command prints it."""
        kind, _, pk = search_term.strip().partition(":")
        if pk and kind.removesuffix(PARENT_SUFFIX) in conf.adapters():
            return queryset.filter(kind=kind, run_id=pk), False
        return super().get_search_results(request, queryset, search_term)

    @admin.display(description="run")
    def run(self, row: Any) -> str:
        """Return KIND:ID, as a link where the run has a page in the admin."""
        name = f"{row.kind}:{row.run_id}"
        url = change_url(self.admin_site, row.kind, row.run_id)
        return format_html('<a href="{}">{}</a>', url, name) if url else name
