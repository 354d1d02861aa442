from django.db import migrations

from apps.sources.operations import SetFillFactor


class Migration(migrations.Migration):
    dependencies = [("sources", "0003_source_index")]

    operations = [SetFillFactor("crawl_jobs", 80), SetFillFactor("crawl_job_source_results", 80)]
