"""Hundreds of values in one statement."""

from uuid import uuid4

import pytest
from django.db.models import Q

from apps.sources.models import CrawlJob
from reaper.db.expressions import InValues, case_by_pk
from tests.factories import running_job

pytestmark = pytest.mark.django_db


def test_in_values_takes_keys_as_text_or_native():
    mine, other = running_job(), running_job()
    for pks in ([str(mine.pk)], [mine.pk], [mine.pk, uuid4()]):
        assert list(CrawlJob.objects.filter(InValues("pk", pks))) == [mine]
        assert list(CrawlJob.objects.exclude(InValues("pk", pks))) == [other]


def test_in_values_without_values_or_for_null_matches_nothing():
    job = running_job()
    CrawlJob.objects.filter(pk=job.pk).update(heartbeat_at=None)
    assert list(CrawlJob.objects.filter(InValues("pk", []))) == []
    assert list(CrawlJob.objects.filter(InValues("heartbeat_at", [job.started_at]))) == []
    assert list(CrawlJob.objects.filter(Q(InValues("pk", [])) | Q(heartbeat_at=None))) == [job]


def test_in_values_passes_any_text_as_data():
    odd = "100 %s, 'quoted' \\ and; -- more"
    job = running_job(task_id=odd)
    assert list(CrawlJob.objects.filter(InValues("task_id", [odd, "other"]))) == [job]
    CrawlJob.objects.update(error_message=case_by_pk({str(job.pk): odd, str(uuid4()): "other"}))
    assert CrawlJob.objects.get().error_message == odd
