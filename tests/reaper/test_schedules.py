"""The rows that start the reaper's tasks: made by migrate, the admin's afterwards, and gone for good after remove()."""

import threading
from datetime import timedelta

import pytest
from celery import current_app
from django.core.management import call_command
from django.db import connection, connections
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask, PeriodicTasks

from reaper import schedules
from reaper.models import Sweep

pytestmark = pytest.mark.django_db

RUNNING = "reaper.tasks.sweep_running"
EXPECTED = {
    "reaper: sweep running runs": (RUNNING, timedelta(seconds=5)),
    "reaper: sweep queued runs": ("reaper.tasks.sweep_pending", timedelta(seconds=30)),
    "reaper: complete orphaned parents": ("reaper.tasks.finalize_parents", timedelta(seconds=60)),
    "reaper: raise alerts": ("reaper.tasks.raise_alerts", timedelta(seconds=60)),
    "reaper: send notifications": ("reaper.tasks.send_notifications", timedelta(seconds=30)),
    "reaper: prune history": ("reaper.tasks.prune_history", timedelta(days=1)),
}


def migrate(**options):
    call_command("migrate", verbosity=0, **options)


def ours():
    return PeriodicTask.objects.filter(task__startswith="reaper.")


def sweep_running():
    return PeriodicTask.objects.get(task=RUNNING)


def test_the_first_migrate_has_made_the_rows():
    assert {row.name: (row.task, row.interval.schedule.run_every) for row in ours()} == EXPECTED
    assert all(row.enabled for row in ours())


def test_each_expires_with_its_interval_and_has_the_reapers_own_queue():
    for row in ours():
        assert 0 < row.expire_seconds <= row.interval.schedule.run_every.total_seconds()
        assert row.queue == "reaper"


def test_intervals_are_written_as_a_person_says_them():
    assert str(sweep_running().interval) == "every 5 seconds"
    assert str(PeriodicTask.objects.get(task="reaper.tasks.prune_history").interval) == "every day"


def test_each_task_is_registered():
    current_app.loader.import_default_modules()
    assert {row.task for row in ours()} <= set(current_app.tasks)


def test_another_migrate_writes_nothing():
    before, changed = list(ours().order_by("pk").values()), PeriodicTasks.last_change()
    migrate()
    assert list(ours().order_by("pk").values()) == before
    assert PeriodicTasks.last_change() == changed


@pytest.mark.parametrize(
    "change",
    [
        {"enabled": False},
        {"interval": {"every": 3, "period": IntervalSchedule.MINUTES}},
        {"expire_seconds": 2},
        {"queue": "housekeeping"},
        {"name": "our own name"},
        {"interval": None, "crontab": {"minute": "5"}},
    ],
    ids=lambda change: " and ".join(change),
)
def test_what_an_admin_changed_survives_another_migrate(change):
    row = sweep_running()
    models = {"interval": IntervalSchedule, "crontab": CrontabSchedule}
    for field, value in change.items():
        setattr(row, field, models[field].objects.create(**value) if isinstance(value, dict) else value)
    row.save()
    migrate()
    as_now = sweep_running()
    assert {field: getattr(as_now, field) for field in change} == {field: getattr(row, field) for field in change}
    assert ours().count() == len(EXPECTED)


def test_a_deleted_row_returns_with_the_next_migrate_and_beat_is_told():
    sweep_running().delete()
    PeriodicTasks.objects.all().delete()
    migrate()
    assert sweep_running().enabled
    assert ours().count() == len(EXPECTED)
    assert PeriodicTasks.last_change() is not None


def test_of_several_equal_intervals_any_is_used():
    ours().delete()
    for _ in range(2):
        IntervalSchedule.objects.create(every=5, period=IntervalSchedule.SECONDS)
    before = IntervalSchedule.objects.count()
    migrate()
    assert ours().count() == len(EXPECTED)
    assert IntervalSchedule.objects.count() == before


def test_a_name_that_somebody_else_uses_is_left_to_him():
    row = sweep_running()
    row.task = "shop.tasks.sweep"
    row.save()
    migrate()
    assert PeriodicTask.objects.get(name=row.name).task == "shop.tasks.sweep"
    assert PeriodicTask.objects.count() == len(EXPECTED)


def test_remove_deletes_the_rows_renamed_ones_too_and_no_others():
    other = PeriodicTask.objects.create(name="other", task="shop.tasks.report", interval=sweep_running().interval)
    ours().filter(task=RUNNING).update(name="our own name")
    changed = PeriodicTasks.last_change()
    assert schedules.remove() == len(EXPECTED)
    assert list(PeriodicTask.objects.all()) == [other]
    assert PeriodicTasks.last_change() > changed
    assert schedules.remove() == 0


@pytest.mark.parametrize(
    "model", [PeriodicTask, IntervalSchedule, PeriodicTasks, Sweep], ids=lambda model: model.__name__
)
def test_nothing_is_made_while_a_table_is_missing(model, monkeypatch):
    ours().delete()
    monkeypatch.setattr(model._meta, "db_table", "not_migrated_yet")
    schedules.create_after_migrate(using="default")
    monkeypatch.undo()
    assert not ours().exists()


def test_nothing_is_made_while_a_column_is_missing(monkeypatch):
    ours().delete()
    monkeypatch.setattr(PeriodicTask._meta.get_field("description"), "column", "not_migrated_yet")
    schedules.create_after_migrate(using="default")
    monkeypatch.undo()
    assert not ours().exists()


class ElsewhereRouter:
    """A project that keeps Beat's tables in a database of their own."""

    def db_for_write(self, model, **hints):
        return "elsewhere" if model._meta.app_label == "django_celery_beat" else None


def test_nothing_is_made_in_a_database_that_beat_does_not_use(settings):
    ours().delete()
    settings.DATABASE_ROUTERS = [f"{__name__}.ElsewhereRouter"]
    schedules.create_after_migrate(using="default")
    settings.DATABASE_ROUTERS = []
    assert not ours().exists()


@pytest.mark.django_db(transaction=True)
def test_two_migrates_at_once_make_each_row_once(monkeypatch):
    if connection.vendor == "sqlite":
        pytest.skip("SQLite lets one write at a time")
    ours().delete()
    both_have_looked = threading.Barrier(2, timeout=10)
    new_row = schedules.new_row
    failed = []

    def after_the_other_has_looked(schedule, using):
        if schedule is schedules.SCHEDULES[0]:
            both_have_looked.wait()
        return new_row(schedule, using)

    def make():
        try:
            schedules.create_after_migrate(using="default")
        except Exception as error:
            failed.append(error)
        finally:
            connections.close_all()

    monkeypatch.setattr(schedules, "new_row", after_the_other_has_looked)
    both = [threading.Thread(target=make) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert failed == []
    assert {row.name: (row.task, row.interval.schedule.run_every) for row in ours()} == EXPECTED
