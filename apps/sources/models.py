"""Sources, crawl jobs, and the children of multi-source jobs.

Table and field names are those of the runbook: operators know them from their SQL. Every field but the foreign keys
has a default, so that a row can be made from `source` and `status` alone.
"""

import uuid

from django.db import models
from django.db.models import Q
from django.utils import timezone


class Source(models.Model):
    """A web site that is crawled."""

    class Status(models.TextChoices):
        """Only an active source is crawled by `crawl_all_active_sources`."""

        ACTIVE = "active"
        PAUSED = "paused"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=200, default="")
    url = models.URLField(max_length=2000, default="")
    domain = models.CharField(max_length=255, default="", blank=True)
    crawler_type = models.CharField(max_length=50, default="html", blank=True)
    status = models.CharField(max_length=20, choices=Status, default=Status.ACTIVE)
    crawler_config = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        db_table = "sources"
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name or self.url


class RunFields(models.Model):
    """What every run carries, whichever table it is in: the columns of `dispatch.py` and `claims.py`."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    # '' when no task was ever sent for it.
    task_id = models.TextField(default="", blank=True)
    # Hostname and incarnation of the worker that claimed it.
    worker = models.TextField(default="", blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    queued_at = models.DateTimeField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)
    error_message = models.TextField(default="", blank=True)
    error_code = models.CharField(max_length=50, default="", blank=True)
    pages_crawled = models.PositiveIntegerField(default=0)

    class Meta:
        abstract = True


class CrawlJob(RunFields):
    """One crawl of one source, or the parent of the crawls of several.

    It is a parent when it has no source or has children (`source_results`); a parent has no task of its own.
    """

    class Status(models.TextChoices):
        """`pending` and `running` are unfinished; `paused` is changed in the admin only."""

        PENDING = "pending"
        RUNNING = "running"
        COMPLETED = "completed"
        FAILED = "failed"
        CANCELLED = "cancelled"
        PAUSED = "paused"

    class Trigger(models.TextChoices):
        """Who asked for it."""

        MANUAL = "manual"
        SCHEDULE = "schedule"
        API = "api"

    # Its index is below: one that has the parents' NULLs too, PostgreSQL takes for finding unfinished parents.
    source = models.ForeignKey(Source, models.CASCADE, null=True, blank=True, related_name="crawl_jobs", db_index=False)
    is_multi_source = models.BooleanField(default=False)
    status = models.CharField(max_length=20, choices=Status, default=Status.PENDING)
    triggered_by = models.CharField(max_length=20, choices=Trigger, default=Trigger.MANUAL)
    config_overrides = models.JSONField(default=dict, blank=True)
    finalized_at = models.DateTimeField(null=True, blank=True)
    total_found = models.PositiveIntegerField(default=0)
    new_articles = models.PositiveIntegerField(default=0)
    duplicates = models.PositiveIntegerField(default=0)
    errors = models.PositiveIntegerField(default=0)

    class Meta:
        db_table = "crawl_jobs"
        ordering = ("-created_at",)
        constraints = [
            models.UniqueConstraint(fields=["task_id"], condition=~Q(task_id=""), name="crawl_jobs_task_id_unique"),
        ]
        indexes = [
            models.Index(fields=["source"], condition=Q(source__isnull=False), name="crawl_jobs_source"),
            models.Index(fields=["created_at"], name="crawl_jobs_created"),
            models.Index(fields=["started_at", "id"], condition=Q(status="running"), name="crawl_jobs_running"),
            models.Index(fields=["queued_at", "id"], condition=Q(status="pending"), name="crawl_jobs_pending"),
            models.Index(
                fields=["status", "id"], condition=Q(source=None, finalized_at=None), name="crawl_jobs_parents"
            ),
            # In the reaper's order of the statuses: its query must say the same for the index to be used.
            models.Index(
                fields=["id"],
                condition=~Q(status__in=["pending", "running", "completed", "failed", "cancelled", "paused"]),
                name="crawl_jobs_unknown",
            ),
        ]

    def __str__(self) -> str:
        return f"crawl job {self.pk}"


class CrawlJobSourceResult(RunFields):
    """One source's share of a multi-source job: a run of its own, with its own task."""

    class Status(models.TextChoices):
        """`skipped`: its job was cancelled or had ended before it ran."""

        PENDING = "pending"
        RUNNING = "running"
        COMPLETED = "completed"
        FAILED = "failed"
        SKIPPED = "skipped"

    crawl_job = models.ForeignKey(CrawlJob, models.CASCADE, related_name="source_results")
    source = models.ForeignKey(Source, models.CASCADE, related_name="results")
    status = models.CharField(max_length=20, choices=Status, default=Status.PENDING)
    articles_found = models.PositiveIntegerField(default=0)
    articles_new = models.PositiveIntegerField(default=0)
    articles_duplicate = models.PositiveIntegerField(default=0)
    errors_count = models.PositiveIntegerField(default=0)

    class Meta:
        db_table = "crawl_job_source_results"
        ordering = ("-created_at",)
        constraints = [
            models.UniqueConstraint(fields=["crawl_job", "source"], name="crawl_results_one_per_source"),
            models.UniqueConstraint(fields=["task_id"], condition=~Q(task_id=""), name="crawl_results_task_id_unique"),
        ]
        indexes = [
            models.Index(fields=["created_at"], name="crawl_results_created"),
            models.Index(fields=["started_at", "id"], condition=Q(status="running"), name="crawl_results_running"),
            models.Index(fields=["queued_at", "id"], condition=Q(status="pending"), name="crawl_results_pending"),
            models.Index(
                fields=["id"],
                condition=~Q(status__in=["pending", "running", "completed", "failed", "skipped"]),
                name="crawl_results_unknown",
            ),
        ]

    def __str__(self) -> str:
        return f"crawl of {self.source_id} for {self.crawl_job}"
