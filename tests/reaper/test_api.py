"""The functions for a host's own code. What they write is tested where a host uses them (tests/sources)."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from freezegun import freeze_time

from apps.sources.models import CrawlJob, CrawlJobSourceResult
from reaper import api
from reaper.db import pagination
from reaper.models import LedgerEntry, RefusedWrite
from reaper.workers import identity
from tests.factories import NOW, queued_job, running_job
from tests.plugin.adapter import Parcels
from tests.plugin.models import Parcel


def test_adapter_for_model_is_the_adapter_that_reads_it():
    assert api.adapter_for(CrawlJob).kind == "crawl_job"
    assert api.adapter_for(CrawlJobSourceResult).kind == "source_result"


def test_adapter_for_kind_is_the_adapter_of_that_kind():
    assert api.adapter_for("source_result") is api.adapter_for(CrawlJobSourceResult)


def test_adapter_for_unknown_kind_names_the_known_ones():
    with pytest.raises(LookupError, match="No adapter has the kind 'order'; the kinds are crawl_job, source_result"):
        api.adapter_for("order")


def test_adapter_for_model_that_none_reads_raises():
    with pytest.raises(LookupError, match="0 adapters read User"):
        api.adapter_for(User)


def test_adapter_for_model_that_two_read_asks_for_the_kind(parcels, settings):
    adapters = [*settings.REAPER["ADAPTERS"], f"{__name__}.UrgentParcels"]
    settings.REAPER = {**settings.REAPER, "ADAPTERS": adapters}
    with pytest.raises(LookupError, match="2 adapters read Parcel; pass the kind"):
        api.adapter_for(Parcel)
    assert api.adapter_for("urgent_parcel").kind == "urgent_parcel"


class UrgentParcels(Parcels):
    kind = "urgent_parcel"


@pytest.mark.django_db
def test_manual_dispatch_is_recorded_in_the_callers_transaction():
    job = queued_job()
    with transaction.atomic():
        api.record_manual_dispatch(CrawlJob, job.pk, "t2")
        transaction.set_rollback(True)
    assert not LedgerEntry.objects.exists()
    api.record_manual_dispatch("crawl_job", job.pk, "t2")
    entry = LedgerEntry.objects.get()
    assert entry.run_id == str(job.pk)
    assert entry.new_task_id == "t2"
    assert entry.action == "dispatch"


@pytest.mark.django_db
def test_refused_write_is_recorded_with_its_task_and_worker():
    job = running_job()
    api.record_refused_write(CrawlJob, job.pk, task_id="t1", worker="celery@w1/abc", write="complete")
    refused = RefusedWrite.objects.get()
    assert refused.kind == "crawl_job"
    assert refused.run_id == str(job.pk)
    assert refused.task_id == "t1"
    assert refused.worker == "celery@w1/abc"
    assert refused.write == "complete"


@pytest.mark.django_db
@pytest.mark.parametrize("order_by", [None, "started_at"])
def test_paginate_yields_pages_with_key_columns_and_order(monkeypatch, order_by):
    monkeypatch.setattr(pagination, "PAGE", 2)
    pks = {running_job(ago * timedelta(seconds=1)).pk for ago in range(5)}
    pages = list(api.paginate(CrawlJob.objects.all(), ["status"], order_by))
    rows = [row for page in pages for row in page]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert {row["pk"] for row in rows} == pks
    assert {row["status"] for row in rows} == {"running"}
    if order_by:
        assert [row["started_at"] for row in rows] == sorted(row["started_at"] for row in rows)


def test_worker_name_outside_of_a_worker_is_empty():
    assert api.worker_name() == ""


def test_worker_name_in_a_worker_is_hostname_and_incarnation(monkeypatch):
    monkeypatch.setattr(identity, "current", identity.WorkerIdentity("celery@w1", "abc"))
    assert api.worker_name() == "celery@w1/abc"


@pytest.mark.django_db
def test_now_is_the_clock_that_the_settings_name(settings):
    with freeze_time(NOW):
        assert api.now() == NOW
        settings.REAPER = {**settings.REAPER, "CLOCK": "database"}
        assert (api.now("default") == NOW) is (connection.vendor != "postgresql")
