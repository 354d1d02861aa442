import django.db.models.deletion
import django.utils.timezone
import uuid
from django.db import migrations, models

from apps.sources.migration_operations import SetFillFactor, SetStatistics


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Source',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('name', models.CharField(default='', max_length=200)),
                ('url', models.URLField(default='', max_length=2000)),
                ('domain', models.CharField(blank=True, default='', max_length=255)),
                ('crawler_type', models.CharField(blank=True, default='html', max_length=50)),
                ('status', models.CharField(choices=[('active', 'Active'), ('paused', 'Paused')], default='active', max_length=20)),
                ('crawler_config', models.JSONField(blank=True, default=dict)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('updated_at', models.DateTimeField(auto_now=True)),
            ],
            options={
                'db_table': 'sources',
                'ordering': ('name',),
            },
        ),
        migrations.CreateModel(
            name='CrawlJob',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('task_id', models.TextField(blank=True, default='')),
                ('worker', models.TextField(blank=True, default='')),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('queued_at', models.DateTimeField(blank=True, null=True)),
                ('started_at', models.DateTimeField(blank=True, null=True)),
                ('heartbeat_at', models.DateTimeField(blank=True, null=True)),
                ('completed_at', models.DateTimeField(blank=True, null=True)),
                ('error_message', models.TextField(blank=True, default='')),
                ('error_code', models.CharField(blank=True, default='', max_length=50)),
                ('pages_crawled', models.PositiveIntegerField(default=0)),
                ('is_multi_source', models.BooleanField(default=False)),
                ('status', models.CharField(choices=[('pending', 'Pending'), ('running', 'Running'), ('completed', 'Completed'), ('failed', 'Failed'), ('cancelled', 'Cancelled'), ('paused', 'Paused')], default='pending', max_length=20)),
                ('triggered_by', models.CharField(choices=[('manual', 'Manual'), ('schedule', 'Schedule'), ('api', 'Api')], default='manual', max_length=20)),
                ('config_overrides', models.JSONField(blank=True, default=dict)),
                ('finalized_at', models.DateTimeField(blank=True, null=True)),
                ('total_found', models.PositiveIntegerField(default=0)),
                ('new_articles', models.PositiveIntegerField(default=0)),
                ('duplicates', models.PositiveIntegerField(default=0)),
                ('errors', models.PositiveIntegerField(default=0)),
                ('source', models.ForeignKey(blank=True, db_index=False, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='crawl_jobs', to='sources.source')),
            ],
            options={
                'db_table': 'crawl_jobs',
                'ordering': ('-created_at',),
            },
        ),
        migrations.CreateModel(
            name='CrawlJobSourceResult',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('task_id', models.TextField(blank=True, default='')),
                ('worker', models.TextField(blank=True, default='')),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('queued_at', models.DateTimeField(blank=True, null=True)),
                ('started_at', models.DateTimeField(blank=True, null=True)),
                ('heartbeat_at', models.DateTimeField(blank=True, null=True)),
                ('completed_at', models.DateTimeField(blank=True, null=True)),
                ('error_message', models.TextField(blank=True, default='')),
                ('error_code', models.CharField(blank=True, default='', max_length=50)),
                ('pages_crawled', models.PositiveIntegerField(default=0)),
                ('status', models.CharField(choices=[('pending', 'Pending'), ('running', 'Running'), ('completed', 'Completed'), ('failed', 'Failed'), ('skipped', 'Skipped')], default='pending', max_length=20)),
                ('articles_found', models.PositiveIntegerField(default=0)),
                ('articles_new', models.PositiveIntegerField(default=0)),
                ('articles_duplicate', models.PositiveIntegerField(default=0)),
                ('errors_count', models.PositiveIntegerField(default=0)),
                ('crawl_job', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='source_results', to='sources.crawljob')),
                ('source', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='results', to='sources.source')),
            ],
            options={
                'db_table': 'crawl_job_source_results',
                'ordering': ('-created_at',),
                'indexes': [models.Index(fields=['created_at'], name='crawl_results_created'), models.Index(condition=models.Q(('status', 'running')), fields=['started_at', 'id'], name='crawl_results_running'), models.Index(condition=models.Q(('status', 'pending')), fields=['queued_at', 'id'], name='crawl_results_pending'), models.Index(condition=models.Q(('status__in', ['pending', 'running', 'completed', 'failed', 'skipped']), _negated=True), fields=['id'], name='crawl_results_unknown')],
                'constraints': [models.UniqueConstraint(fields=('crawl_job', 'source'), name='crawl_results_one_per_source'), models.UniqueConstraint(condition=models.Q(('task_id', ''), _negated=True), fields=('task_id',), name='crawl_results_task_id_unique')],
            },
        ),
        migrations.AddIndex(
            model_name='crawljob',
            index=models.Index(condition=models.Q(('source__isnull', False)), fields=['source'], name='crawl_jobs_source'),
        ),
        migrations.AddIndex(
            model_name='crawljob',
            index=models.Index(fields=['created_at'], name='crawl_jobs_created'),
        ),
        migrations.AddIndex(
            model_name='crawljob',
            index=models.Index(condition=models.Q(('status', 'running')), fields=['started_at', 'id'], name='crawl_jobs_running'),
        ),
        migrations.AddIndex(
            model_name='crawljob',
            index=models.Index(condition=models.Q(('status', 'pending')), fields=['queued_at', 'id'], name='crawl_jobs_pending'),
        ),
        migrations.AddIndex(
            model_name='crawljob',
            index=models.Index(condition=models.Q(('finalized_at', None), ('source', None)), fields=['status', 'id'], name='crawl_jobs_parents'),
        ),
        migrations.AddIndex(
            model_name='crawljob',
            index=models.Index(condition=models.Q(('status__in', ['pending', 'running', 'completed', 'failed', 'cancelled', 'paused']), _negated=True), fields=['id'], name='crawl_jobs_unknown'),
        ),
        migrations.AddConstraint(
            model_name='crawljob',
            constraint=models.UniqueConstraint(condition=models.Q(('task_id', ''), _negated=True), fields=('task_id',), name='crawl_jobs_task_id_unique'),
        ),
        SetStatistics('crawl_jobs', 'status', 1000),
        SetStatistics('crawl_job_source_results', 'status', 1000),
        SetFillFactor('crawl_jobs', 80),
        SetFillFactor('crawl_job_source_results', 80),
    ]
