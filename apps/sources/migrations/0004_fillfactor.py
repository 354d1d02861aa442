from django.db import migrations

from apps.sources.operations import FillTo


class Migration(migrations.Migration):
    dependencies = [("sources", "0003_source_index")]

    operations = [FillTo("crawl_jobs", 80), FillTo("crawl_job_source_results", 80)]
