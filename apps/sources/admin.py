"""The admin: sources are edited here; runs are only viewed and acted on.

A run's form is never saved: it would write the whole row as it was when the page was loaded, over what a task or the
reaper has written since. Whatever may be done with a run is an admin action.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar
from uuid import UUID

from django.contrib import admin, messages
from django.db import models, transaction
from django.db.models import Count, Q, QuerySet
from django.forms.models import BaseInlineFormSet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html

from apps.sources import dispatch, parents
from apps.sources.models import CrawlJob, CrawlJobSourceResult, Source
from reaper.admin import ReadOnlyMixin, ReaperRunAdminMixin, datetime_column

logger = logging.getLogger(__name__)

MAX_CHILDREN = 100
"""Children that their parent's page shows; a link leads to all of them."""
MAX_NAMED = 5
"""Runs that a message names one by one."""


def fields_of(model: type[models.Model], *first: str) -> tuple[Any, ...]:
    """Return a model's fields for display, some of them first."""
    fields = sorted(model._meta.concrete_fields, key=lambda field: field.name not in first)
    return tuple(
        datetime_column(field.name) if isinstance(field, models.DateTimeField) else field.name for field in fields
    )


class ReportingAdmin(admin.ModelAdmin):
    """An admin whose actions report their outcome to the user."""

    def report(self, request: HttpRequest, level: int, outcome: str, rows: list[Any]) -> None:
        """Report the outcome of some rows: how many, and the first of them. Without rows, report nothing."""
        if rows:
            names = ", ".join(str(each) for each in rows[:MAX_NAMED])
            more = ", …" if len(rows) > MAX_NAMED else ""
            self.message_user(request, f"{len(rows)} {outcome}: {names}{more}", level)

    def try_publish(self, request: HttpRequest, send: Callable[[], Any]) -> bool:
        """Publish something; if the broker does not take it, report that and return False."""
        try:
            send()
        except dispatch.NotPending:
            raise
        # What a broken broker raises varies: kombu's errors, the client library's own, RuntimeError.
        except Exception as error:
            logger.warning("could not publish: %s", error)
            sentence = f"The broker did not take the message ({error}). The run waits until it is dispatched again."
            self.message_user(request, sentence, messages.ERROR)
            return False
        return True


@admin.register(Source)
class SourceAdmin(ReportingAdmin):
    """Sources."""

    list_display = ("name", "url", "status", "crawler_type", datetime_column("updated_at"))
    list_filter = ("status",)
    search_fields = ("name", "url", "domain")
    readonly_fields = ("created_at", "updated_at")
    # Django's next default; without it every form warns of the change.
    formfield_overrides = {models.URLField: {"assume_scheme": "https"}}
    list_per_page = 50
    actions = ("crawl_now",)

    @admin.action(description="Crawl now", permissions=["change"])
    def crawl_now(self, request: HttpRequest, queryset: QuerySet[Source]) -> None:
        """Crawl one source in a job of its own, several as the children of one job."""
        sources = list(queryset)
        if len(sources) > 1:
            if self.try_publish(request, partial(parents.create_parent, sources, triggered_by=CrawlJob.Trigger.MANUAL)):
                self.report(request, messages.SUCCESS, "sources will be crawled by one job", sources)
            return
        job = dispatch.create_job(sources[0].pk, triggered_by=CrawlJob.Trigger.MANUAL)
        if self.try_publish(request, partial(dispatch.dispatch_run, CrawlJob, job.pk, manual=True)):
            self.report(request, messages.SUCCESS, "job was made", [job.pk])


class RunAdmin(ReaperRunAdminMixin, ReportingAdmin):
    """Runs of either table."""

    show_full_result_count = False
    list_per_page = 50
    actions: Any = ("dispatch_again",)
    search_fields = ("source__name", "source__domain")
    search_help_text = "A source's name, or the id of a run or a task, in full."

    def get_search_results(self, request: HttpRequest, queryset: QuerySet, search_term: str) -> tuple[QuerySet, bool]:
        """Search; ids by themselves, because these searches have an index."""
        try:
            wanted = UUID(search_term.strip())
        except ValueError:
            return super().get_search_results(request, queryset, search_term)
        return queryset.filter(Q(pk=wanted) | Q(task_id=str(wanted))), False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: a run's form is never saved."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: a parent's outcome and the history depend on its runs."""
        return False

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may act on runs: with the permission to change them."""
        return request.user.has_perm(f"sources.change_{self.opts.model_name}")

    def parents(self, queryset: QuerySet) -> set[Any]:
        """Return the keys of those that are parents: they have no task of their own."""
        return set()

    @admin.action(description="Dispatch again (pending ones)", permissions=["operate"])
    def dispatch_again(self, request: HttpRequest, queryset: QuerySet) -> None:
        """Send pending runs to the workers again, each under a new task id."""
        parents = self.parents(queryset)
        self.report(request, messages.WARNING, "have no task of their own; dispatch their children", list(parents))
        sent = []
        refused = []
        for pk in queryset.exclude(pk__in=parents).values_list("pk", flat=True):
            try:
                # The first failure ends the loop: with the broker down, each run would wait for a timeout.
                if not self.try_publish(request, partial(dispatch.dispatch_run, self.model, pk, manual=True)):
                    break
                sent.append(pk)
            except dispatch.NotPending:
                refused.append(pk)
        self.report(request, messages.SUCCESS, "dispatched again", sent)
        self.report(request, messages.WARNING, "not pending, so not dispatched", refused)


class FirstChildren(BaseInlineFormSet):
    """The first children: a job of thousands must still have a page."""

    def get_queryset(self) -> QuerySet:
        """Return the first children."""
        if not hasattr(self, "_first"):
            self._first = super().get_queryset()[:MAX_CHILDREN]
        return self._first


class ChildrenInline(ReadOnlyMixin, admin.TabularInline):
    """A job's children, read-only."""

    model = CrawlJobSourceResult
    formset = FirstChildren
    verbose_name_plural = f"children (the first {MAX_CHILDREN})"
    fields: ClassVar[Any] = (
        "source",
        "status",
        datetime_column("started_at"),
        datetime_column("completed_at"),
        "pages_crawled",
        "articles_new",
        "error_message",
    )
    readonly_fields = fields
    ordering = ("created_at", "pk")
    show_change_link = True
    extra = 0

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        """Return the children with their sources."""
        return super().get_queryset(request).select_related("source")


@admin.register(CrawlJob)
class CrawlJobAdmin(RunAdmin):
    """Jobs: created here, and acted on."""

    list_display = ("id", "of", "status", datetime_column("created_at"), "pages_crawled", "error_code")
    list_filter = ("status", "triggered_by", "is_multi_source", "created_at")
    list_select_related = ("source",)
    autocomplete_fields = ("source",)
    actions = ("cancel", "dispatch_again", "finalize")

    def get_fields(self, request: HttpRequest, obj: CrawlJob | None = None) -> Any:
        """Return the source and the overrides for a new job; all fields for an existing one."""
        if obj is None:
            return ("source", "config_overrides")
        return (*fields_of(CrawlJob, "id", "source", "status"), "children")

    def get_readonly_fields(self, request: HttpRequest, obj: CrawlJob | None = None) -> Any:
        """Return all fields of an existing job; none for a new one."""
        return () if obj is None else self.get_fields(request, obj)

    def get_inlines(self, request: HttpRequest, obj: CrawlJob | None = None) -> list[Any]:
        """Return the list of children, for parents only."""
        return [ChildrenInline] if obj and obj.source_results.exists() else []

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        """Return a form that requires a source: parents are created by the action on sources."""
        form = super().get_form(request, obj, change, **kwargs)
        if "source" in form.base_fields:
            form.base_fields["source"].required = True
        return form

    def save_model(self, request: HttpRequest, obj: CrawlJob, form: Any, change: bool) -> None:
        """Create the job and dispatch it after the commit."""
        super().save_model(request, obj, form, change)
        send = partial(dispatch.dispatch_run, CrawlJob, obj.pk, manual=True)
        transaction.on_commit(lambda: self.try_publish(request, send))

    def parents(self, queryset: QuerySet) -> set[Any]:
        """Return the keys of those without a source, or with children."""
        without_source = queryset.filter(source=None).values_list("pk", flat=True)
        with_children = queryset.filter(source_results__isnull=False).values_list("pk", flat=True)
        return {*without_source, *with_children}

    @admin.display(description="source", ordering="source__name")
    def of(self, job: CrawlJob) -> str:
        """Return the job's source; a parent has several."""
        return str(job.source) if job.source else "several"

    @admin.display(description="children")
    def children(self, job: CrawlJob) -> str:
        """Return how many children there are, by status, as a link to them."""
        counts = job.source_results.order_by("status").values_list("status").annotate(count=Count("pk"))
        summary = ", ".join(f"{count} {status}" for status, count in counts)
        if not summary:
            return "-"
        page = reverse(f"{self.admin_site.name}:sources_crawljobsourceresult_changelist")
        return format_html('<a href="{}?crawl_job__id__exact={}">{}</a>', page, job.pk, summary)

    @admin.action(description="Cancel", permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[CrawlJob]) -> None:
        """Cancel unfinished jobs, their children included."""
        self.each(request, queryset, parents.cancel, "cancelled", "had ended already")

    @admin.action(description="Finalize (parents)", permissions=["operate"])
    def finalize(self, request: HttpRequest, queryset: QuerySet[CrawlJob]) -> None:
        """Give parents whose children have all ended their outcome."""
        self.each(
            request, queryset, parents.finalize, "finalized", "not to be finalized: no parent, still open, or done"
        )

    def each(
        self, request: HttpRequest, queryset: QuerySet, function: Callable[[Any], bool], done: str, not_done: str
    ) -> None:
        """Call a function for each job, and report for which it returned True and for which not."""
        answers = {pk: function(pk) for pk in queryset.values_list("pk", flat=True)}
        self.report(request, messages.SUCCESS, done, [pk for pk, answer in answers.items() if answer])
        self.report(request, messages.WARNING, not_done, [pk for pk, answer in answers.items() if not answer])


@admin.register(CrawlJobSourceResult)
class CrawlJobSourceResultAdmin(RunAdmin):
    """The children of multi-source jobs."""

    list_display = ("id", "source", "status", datetime_column("created_at"), "pages_crawled", "error_code")
    list_filter = ("status", "created_at")
    list_select_related = ("source",)
    fields: ClassVar[Any] = fields_of(CrawlJobSourceResult, "id", "crawl_job", "source", "status")
    readonly_fields = fields

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: a job creates its children."""
        return False
