"""The ledger is only ever added to: the database itself refuses the rest."""

import pytest
from django.db import IntegrityError, connection, transaction

from reaper.adapters import RunUpdate
from reaper.core.decisions import Decision
from reaper.core.policy import Action
from reaper.core.reasons import Reason
from reaper.ledger.delivery import confirm_dispatches
from reaper.ledger.writing import record_updates
from reaper.models import LedgerEntry, Sweep
from tests.factories import HOUR, NOW, SECOND
from tests.reaper.ledger.entries import ADAPTER, RUN, entry

pytestmark = pytest.mark.django_db


on_postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="the trigger is PostgreSQL's")


@pytest.fixture
def young():
    """A row of this moment, by the database's own clock."""
    sweep = Sweep.objects.create(kind="crawl_job", phase="running", started_at=NOW)
    record_updates(ADAPTER, [RunUpdate(RUN, Decision(Action.REQUEUE, Reason.LOST), "", "new")], now(), sweep, "")
    return LedgerEntry.objects.get()


def now():
    """The database's time, which no test can freeze."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        return cursor.fetchone()[0]


@on_postgresql
@pytest.mark.parametrize(
    "change",
    [
        *({name: "other"} for name in ("kind", "run_id", "phase", "action", "reason", "task_id", "new_task_id")),
        *({name: True} for name in ("exhausted", "interrupted", "terminate")),
        {"applied": False},
        *({name: {"a": 1}} for name in ("facts", "evidence")),
        {"message": "other"},
        {"actor": "other"},
        {"created_at": NOW},
    ],
    ids=lambda change: next(iter(change)),
)
def test_recorded_column_cannot_be_changed(young, change):
    before = LedgerEntry.objects.values().get()
    with pytest.raises(IntegrityError, match=f"row {young.pk} cannot be changed"), transaction.atomic():
        LedgerEntry.objects.update(**change)
    assert LedgerEntry.objects.values().get() == before


@on_postgresql
def test_confirmation_is_written_once_and_stays(young):
    confirm_dispatches(ADAPTER, {RUN.pk: "new"}, NOW)
    assert LedgerEntry.objects.get().published_at == NOW
    for later in (None, NOW + SECOND):
        with pytest.raises(IntegrityError, match="cannot be changed"), transaction.atomic():
            LedgerEntry.objects.update(published_at=later)


@on_postgresql
def test_owner_notification_is_written_once_and_stays(young):
    LedgerEntry.objects.update(owner_notified_at=NOW)
    assert LedgerEntry.objects.get().owner_notified_at == NOW
    for later in (None, NOW + SECOND):
        with pytest.raises(IntegrityError, match="cannot be changed"), transaction.atomic():
            LedgerEntry.objects.update(owner_notified_at=later)


@on_postgresql
def test_entry_outlives_its_sweep_and_moves_to_no_other(young):
    other = Sweep.objects.create(kind="crawl_job", phase="running", started_at=NOW)
    with pytest.raises(IntegrityError, match="cannot be changed"), transaction.atomic():
        LedgerEntry.objects.update(sweep=other)
    Sweep.objects.all().delete()
    assert LedgerEntry.objects.get().sweep is None


@on_postgresql
def test_entry_is_deleted_by_age_only(young):
    with pytest.raises(IntegrityError, match=f"row {young.pk} is too young to be deleted"), transaction.atomic():
        LedgerEntry.objects.all().delete()
    entry(at=now() - 13 * HOUR)
    LedgerEntry.objects.exclude(pk=young.pk).delete()
    assert LedgerEntry.objects.get() == young
