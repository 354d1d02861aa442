"""The system checks: bound, one id per mistake, and silent when nothing is wrong."""

import os
import subprocess
import sys
from datetime import timedelta

import pytest
from celery import current_app, shared_task
from celery.signals import import_modules
from django.core import checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings

from reaper.adapters import ModelRunAdapter
from reaper.checks import check_reaper
from reaper.conf import settings as conf
from tests.reaper.conf.test_settings import Orders, named

HERE = "tests.reaper.test_checks"


@shared_task(time_limit=600)
def limited():
    """A task that Celery ends after ten minutes."""


@shared_task
def unlimited():
    """A task that Celery does not end by itself."""


class Limited(Orders):
    task = f"{HERE}.limited"


class Unlimited(Orders):
    kind = "unlimited"
    task = f"{HERE}.unlimited"


class Unregistered(Orders):
    task = f"{HERE}.nowhere"


class Dissatisfied(Unlimited):
    def check(self):
        return [checks.Error("It is not well.", "Mend it.", id="shop.E001")]


class Explosive(Unlimited):
    def check(self):
        raise OSError("boom")


class Modelless(ModelRunAdapter):
    kind, task = "modelless", f"{HERE}.unlimited"
    model = "shop.Order"
    queued_statuses, running_statuses, finished_statuses = ("new",), ("busy",), ("done",)
    status_after_requeue, status_after_fail, status_after_close = "new", "done", "done"

    def messages(self, runs):
        return {}


def found(*adapters, **settings):
    """The ids that the checks give for these adapters and settings."""
    with override_settings(REAPER={"ADAPTERS": [f"{HERE}.{each.__name__}" for each in adapters], **settings}):
        return [each.id for each in check_reaper()]


def test_check_of_example_project_finds_nothing():
    assert check_reaper() == []


@pytest.mark.parametrize(
    ("adapters", "given", "ids"),
    [
        pytest.param([Limited, Unlimited], {}, [], id="right"),
        pytest.param([Limited], {"RUN_TIMEOUT": 601, "ALERT_AFTER": 60}, [], id="timeout just above the limit"),
        pytest.param([Limited], {"RUN_TIMEOUT": 600, "ALERT_AFTER": 60}, ["reaper.E030"], id="timeout at the limit"),
        pytest.param([Limited], {"RUN_TIMEOUT": 300, "ALERT_AFTER": 60}, ["reaper.E030"], id="timeout below the limit"),
        pytest.param([Unlimited], {"RUN_TIMEOUT": 10, "ALERT_AFTER": 5}, [], id="no limit"),
        pytest.param([Unlimited], {"RUN_TIMEOUT": 10, "ALERT_AFTER": 10}, ["reaper.W001"], id="alert at the timeout"),
        pytest.param(
            [Unlimited], {"KINDS": {"unlimited": {"ALERT_AFTER": 7200}}}, ["reaper.W001"], id="a kind's alert"
        ),
        pytest.param([Limited, Unlimited], {"ALERT_AFTER": 7200}, ["reaper.W001"] * 2, id="alert of both kinds"),
        pytest.param([Unregistered], {}, ["reaper.W002"], id="task not registered"),
        pytest.param([Dissatisfied], {}, ["shop.E001"], id="the adapter's own"),
        pytest.param([Explosive], {}, ["reaper.E032"], id="the adapter's own fails"),
        pytest.param([Modelless], {}, ["reaper.E020"], id="no such model"),
    ],
)
def test_check_reports_adapter_and_task_findings(adapters, given, ids):
    assert found(*adapters, **given) == ids


def test_time_limit_of_app_applies_to_tasks_without_own():
    app = current_app
    before, app.conf.task_time_limit = app.conf.task_time_limit, 30
    try:
        assert found(Unlimited, RUN_TIMEOUT=30, ALERT_AFTER=5) == ["reaper.E030"]
        assert found(Unlimited, RUN_TIMEOUT=31, ALERT_AFTER=5) == []
    finally:
        app.conf.task_time_limit = before


def test_check_distinguishes_errors_from_warnings():
    with override_settings(REAPER={"ADAPTERS": [f"{HERE}.Unregistered"], "RUN_TIMEOUT": 10}):
        assert [each.level for each in check_reaper()] == [checks.WARNING, checks.WARNING]
    with override_settings(REAPER={"ADAPTERS": [f"{HERE}.Limited"], "RUN_TIMEOUT": 10, "ALERT_AFTER": 5}):
        assert [each.level for each in check_reaper()] == [checks.ERROR]


def test_check_with_wrong_settings_reports_only_these():
    with named("Orders", RUN_TIMEOUT=0, CLOCK="wall", ALERT_AFTER=timedelta(days=1)):
        assert [each.id for each in check_reaper()] == [problem.id for problem in conf.problems()]


@pytest.fixture
def on_import():
    """Have a function called whenever Celery imports the task modules."""
    app, bound = current_app._get_current_object(), []

    def bind(call):
        import_modules.connect(call, sender=app)
        bound.append(call)

    yield bind
    for call in bound:
        import_modules.disconnect(call, sender=app)


def test_unimportable_task_module_is_a_check_error(on_import):
    def broken(**_):
        raise ImportError("no shop")

    on_import(broken)
    assert found(Unlimited) == ["reaper.E031"]


def test_checks_run_by_task_import_do_not_recurse(on_import):
    imports = []

    def count(**_):
        imports.append(1)

    on_import(count)
    assert found(Unlimited) == []
    assert len(imports) == 1


def test_checks_are_registered():
    with named("Orders", RUN_TIMOUT=5), pytest.raises(SystemCheckError, match=r"reaper\.E002.*[\s\S]*RUN_TIMEOUT\?"):
        call_command("check")


def test_checks_run_by_their_tag():
    with named("Orders", RUN_TIMEOUT=0), pytest.raises(SystemCheckError, match=r"reaper\.E004"):
        call_command("check", tags=["reaper"])


def test_missing_beat_app_is_a_warning(settings):
    settings.INSTALLED_APPS = [name for name in settings.INSTALLED_APPS if name != "django_celery_beat"]
    assert "reaper.W003" in [each.id for each in check_reaper()]


@pytest.mark.live
def test_worker_with_wrong_settings_does_not_start():
    """The thresholds lie below the task's own time limit. No broker is asked: it stops before."""
    environment = {**os.environ, "REAPER_RUN_TIMEOUT": "5", "DEBUG": "1", "DATABASE_URL": "sqlite://"}
    words = [sys.executable, "-m", "celery", "-A", "config.celery", "worker", "--pool", "solo"]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "reaper.E030" in ended.stderr
    assert "RUN_TIMEOUT (5 s) is not longer than the time limit" in ended.stderr
