"""The adapters that the tests run through: the example host's two, and one that is as unlike them as it can be."""

from datetime import timedelta
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from django.db import connection, transaction

from apps.sources.reaping import CrawlJobs, SourceResults
from reaper.adapters import ModelRunAdapter, RunUpdate
from reaper.core.decisions import Decision
from reaper.core.facts import Phase
from reaper.core.policy import Action
from reaper.core.reasons import Reason
from tests.factories import NOW, fresh, parent, source
from tests.plugin.adapter import Parcels

HOUR = timedelta(hours=1)
PHASES = (Phase.QUEUED, Phase.RUNNING)
on_postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="needs SKIP LOCKED")


class Kind(NamedTuple):
    """An adapter and what its rows need besides the columns that it names."""

    adapter: ModelRunAdapter
    needed: Any
    unknown_keys: tuple


NO_UUIDS = ("", "x", "7", "None", str(uuid4()), "KIND:ID", "\x00")
KINDS = {
    "crawl_job": Kind(CrawlJobs(), lambda: {"source": source()}, NO_UUIDS),
    "source_result": Kind(SourceResults(), lambda: {"source": source(), "crawl_job": parent()}, NO_UUIDS),
    "parcel": Kind(Parcels(), dict, ("", "x", "1.5", "-1", "None", "9" * 40, str(uuid4()), "\x00")),
}


def make(kind, phase=Phase.RUNNING, ago=timedelta(0), **facts):
    """A row of the kind whose phase began `ago`; `facts` by their names in RunFacts, as far as the kind has them."""
    adapter = kind.adapter
    stamps = {"created": NOW - ago, "queued": NOW - ago}
    if phase is Phase.RUNNING:
        stamps["started"] = NOW - ago
    status = {
        Phase.QUEUED: adapter.queued_statuses,
        Phase.RUNNING: adapter.running_statuses,
        Phase.FINISHED: adapter.finished_statuses,
    }[phase][0]
    values = {"status": status, "task_id": str(uuid4()), **stamps, **facts}
    columns = {getattr(adapter, f"{name}_field"): value for name, value in values.items()}
    columns.pop(None, None)
    return adapter.model_class.objects.create(**kind.needed(), **columns)


def column(kind, row, name):
    """What the database has now in the column that the adapter names so."""
    return getattr(fresh(row), getattr(kind.adapter, f"{name}_field"))


def change(kind, row, action=Action.FAIL, message="Because.", new_task_id=""):
    """The change of a row as it is now."""
    run = kind.adapter.get(str(row.pk))
    return RunUpdate(run, Decision(action, Reason.TIMED_OUT), message, new_task_id)


def apply(kind, *changes):
    with transaction.atomic():
        return kind.adapter.apply(changes, NOW)


def seen(kind, phase):
    return [run.pk for page in kind.adapter.iter_unfinished(phase) for run in page]
