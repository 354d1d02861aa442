import django.db.models.deletion
from django.db import migrations, models
from django.db.models import Q

from apps.sources.operations import AddIndexOnline


class Migration(migrations.Migration):
    # An index that is built while the table is in use cannot be built in a transaction.
    atomic = False

    dependencies = [("sources", "0002_unknown_statuses")]

    operations = [
        AddIndexOnline(
            "crawljob", models.Index(fields=["source"], condition=Q(source__isnull=False), name="crawl_jobs_source")
        ),
        migrations.AlterField(
            "crawljob",
            "source",
            models.ForeignKey(
                blank=True,
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="crawl_jobs",
                to="sources.source",
            ),
        ),
    ]
