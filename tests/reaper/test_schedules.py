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


def test_first_migrate_creates_every_schedule():
    assert {row.name: (row.task, row.interval.schedule.run_every) for row in ours()} == EXPECTED
    assert all(row.enabled for row in ours())


def test_schedule_expires_with_its_interval_and_has_own_queue():
    for row in ours():
        assert 0 < row.expire_seconds <= row.interval.schedule.run_every.total_seconds()
        assert row.queue == "reaper"


def test_interval_of_whole_days_is_stored_in_days():
    assert str(sweep_running().interval) == "every 5 seconds"
    assert str(PeriodicTask.objects.get(task="reaper.tasks.prune_history").interval) == "every day"


def test_scheduled_tasks_are_registered():
    current_app.loader.import_default_modules()
    assert {row.task for row in ours()} <= set(current_app.tasks)


def test_second_migrate_writes_nothing():
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
def test_changed_schedule_survives_migrate(change):
    row = sweep_running()
    models = {"interval": IntervalSchedule, "crontab": CrontabSchedule}
    for field, value in change.items():
        setattr(row, field, models[field].objects.create(**value) if isinstance(value, dict) else value)
    row.save()
    migrate()
    as_now = sweep_running()
    assert {field: getattr(as_now, field) for field in change} == {field: getattr(row, field) for field in change}
    assert ours().count() == len(EXPECTED)


def test_deleted_schedule_is_created_again_and_beat_notices():
    sweep_running().delete()
    PeriodicTasks.objects.all().delete()
    migrate()
    assert sweep_running().enabled
    assert ours().count() == len(EXPECTED)
    assert PeriodicTasks.last_change() is not None


def test_one_of_several_equal_intervals_is_used():
    ours().delete()
    for _ in range(2):
        IntervalSchedule.objects.create(every=5, period=IntervalSchedule.SECONDS)
    before = IntervalSchedule.objects.count()
    migrate()
    assert ours().count() == len(EXPECTED)
    assert IntervalSchedule.objects.count() == before


def test_name_in_use_by_another_task_is_left_alone():
    row = sweep_running()
    row.task = "shop.tasks.sweep"
    row.save()
    migrate()
    assert PeriodicTask.objects.get(name=row.name).task == "shop.tasks.sweep"
    assert PeriodicTask.objects.count() == len(EXPECTED)


def test_remove_deletes_own_schedules_renamed_ones_included():
    other = PeriodicTask.objects.create(name="other", task="shop.tasks.report", interval=sweep_running().interval)
    ours().filter(task=RUNNING).update(name="our own name")
    changed = PeriodicTasks.last_change()
    assert schedules.delete_rows() == len(EXPECTED)
    assert list(PeriodicTask.objects.all()) == [other]
    assert PeriodicTasks.last_change() > changed
    assert schedules.delete_rows() == 0


@pytest.mark.parametrize(
    "model", [PeriodicTask, IntervalSchedule, PeriodicTasks, Sweep], ids=lambda model: model.__name__
)
def test_missing_table_postpones_schedules(model, monkeypatch):
    ours().delete()
    monkeypatch.setattr(model._meta, "db_table", "not_migrated_yet")
    schedules.create_after_migrate(using="default")
    monkeypatch.undo()
    assert not ours().exists()


def test_missing_column_postpones_schedules(monkeypatch):
    ours().delete()
    monkeypatch.setattr(PeriodicTask._meta.get_field("description"), "column", "not_migrated_yet")
    schedules.create_after_migrate(using="default")
    monkeypatch.undo()
    assert not ours().exists()


class ElsewhereRouter:
    """A project that keeps Beat's tables in a database of their own."""

    def db_for_write(self, model, **hints):
        return "elsewhere" if model._meta.app_label == "django_celery_beat" else None


def test_database_without_beat_has_no_schedules(settings):
    ours().delete()
    settings.DATABASE_ROUTERS = [f"{__name__}.ElsewhereRouter"]
    schedules.create_after_migrate(using="default")
    settings.DATABASE_ROUTERS = []
    assert not ours().exists()


@pytest.mark.django_db(transaction=True)
def test_concurrent_migrates_create_each_schedule_once(monkeypatch):
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
