from django.db import migrations, models
from django.db.models import Q

from apps.sources.operations import AddIndexOnline, SetStatistics


class Migration(migrations.Migration):
    # An index that is built while the table is in use cannot be built in a transaction.
    atomic = False

    dependencies = [("sources", "0001_initial")]

    operations = [
        AddIndexOnline(
            "crawljob",
            models.Index(
                fields=["id"],
                condition=~Q(status__in=["pending", "running", "completed", "failed", "cancelled", "paused"]),
                name="crawl_jobs_unknown",
            ),
        ),
        AddIndexOnline(
            "crawljobsourceresult",
            models.Index(
                fields=["id"],
                condition=~Q(status__in=["pending", "running", "completed", "failed", "skipped"]),
                name="crawl_results_unknown",
            ),
        ),
        SetStatistics("crawl_jobs", "status", 1000),
        SetStatistics("crawl_job_source_results", "status", 1000),
    ]
