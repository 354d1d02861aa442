"""Django's system checks of the reaper, each with an id, one sentence and one hint.

E001 to E008 are about the settings and come from `conf/validators.py`, E020 to E029 are the adapters' own. E030 and up,
and the warnings, are about how both fit Celery.
"""

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

from celery import Task, current_app
from django.apps import apps
from django.core import checks

from reaper.adapters import RunAdapter
from reaper.conf import settings as conf
from reaper.core.formatting import format_value
from reaper.core.policy import Policy

# Celery runs all system checks whenever it imports the task modules, which one of the checks makes it do.
importing: ContextVar[bool] = ContextVar("importing", default=False)


def check_reaper(app_configs: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """Return the mistakes in the settings; without any, those of the adapters and their tasks."""
    if broken := conf.problems():
        return [checks.Error(each.message, each.hint, id=each.id) for each in broken]
    found = list(check_beat())
    for adapter in conf.adapters().values():
        found += [*check_alert(adapter, conf.policy(adapter)), *check_adapter(adapter)]
    return [*found, *check_tasks()]


def abort_on_errors(**kwargs: Any) -> None:
    """Stop a worker or Beat with wrong settings, and print what is wrong. Receives `worker_init` and `beat_init`.

    Celery also runs Django's checks when it starts, but continues whatever they find.
    """
    if errors := [each for each in check_reaper() if each.level >= checks.ERROR]:
        raise SystemExit("\n".join(str(each) for each in errors))


def check_beat() -> Iterator[checks.CheckMessage]:
    """Yield a warning without django-celery-beat: nothing would start the sweeps, and nobody would notice."""
    if not apps.is_installed("django_celery_beat"):
        hint = 'Add "django_celery_beat" to INSTALLED_APPS, or run `manage.py reaper run`.'
        yield checks.Warning("No schedule starts the reaper's sweeps.", hint, id="reaper.W003")


def check_policy(adapter: RunAdapter, policy: Policy) -> list[checks.CheckMessage]:
    """Return what would be wrong with this policy of a kind."""
    broken = list(import_tasks())
    task = current_app.tasks.get(adapter.task)
    return [*broken, *check_alert(adapter, policy), *(check_time_limit(adapter, task, policy) if task else ())]


def check_alert(adapter: RunAdapter, policy: Policy) -> Iterator[checks.CheckMessage]:
    """Yield a warning when the alert cannot come before the run is failed."""
    if policy.alert_after >= policy.run_timeout:
        alert_after = format_value(policy.alert_after)
        run_timeout = format_value(policy.run_timeout)
        message = f"{adapter.kind}: ALERT_AFTER ({alert_after}) is not shorter than RUN_TIMEOUT ({run_timeout})."
        yield checks.Warning(
            message, "Make it shorter: the alert must come before the run is failed.", id="reaper.W001"
        )


def check_adapter(adapter: RunAdapter) -> Iterator[checks.CheckMessage]:
    """Yield what the adapter's own check finds."""
    try:
        yield from adapter.check()
    except Exception as error:  # the host's code, which may raise anything
        message = f"{adapter.kind}: the adapter's check() failed ({type(error).__name__}: {error})."
        yield checks.Error(message, "Set what it needs, or fix it: it must return its findings.", id="reaper.E032")


def check_tasks() -> Iterator[checks.CheckMessage]:
    """Yield what is wrong with the adapters' tasks."""
    if importing.get():
        return
    broken = list(import_tasks())
    yield from broken
    for adapter in conf.adapters().values() if not broken else ():
        yield from check_task(adapter, current_app.tasks)


def import_tasks() -> Iterator[checks.CheckMessage]:
    """Import the task modules, which a web process or a command has not done yet; yield why that failed."""
    inside = importing.set(True)
    try:
        current_app.loader.import_default_modules()
    except Exception as error:  # importing runs the host's code, which may raise anything
        message = f"Celery's task modules cannot be imported ({type(error).__name__}: {error})."
        yield checks.Error(message, "Fix the import: no worker can start either.", id="reaper.E031")
    finally:
        importing.reset(inside)


def check_task(adapter: RunAdapter, tasks: Mapping[str, Task]) -> Iterator[checks.CheckMessage]:
    """Yield what is wrong with the task of one adapter."""
    task = tasks.get(adapter.task)
    if task is None:
        message = f"{adapter.kind}: no Celery task is registered as {adapter.task!r}."
        hint = "Correct the adapter's `task`, or import the task in a module that the workers import."
        yield checks.Warning(message, hint, id="reaper.W002")
        return
    yield from check_time_limit(adapter, task, conf.policy(adapter))


def check_time_limit(adapter: RunAdapter, task: Task, policy: Policy) -> Iterator[checks.CheckMessage]:
    """Yield an error when a run would count as stuck while its task is still within Celery's time limit."""
    limit = task.time_limit or task.app.conf.task_time_limit
    if limit and policy.run_timeout <= timedelta(seconds=limit):
        timeout = format_value(policy.run_timeout)
        longest = f"the time limit of {adapter.task} ({format_value(timedelta(seconds=limit))})"
        message = f"{adapter.kind}: RUN_TIMEOUT ({timeout}) is not longer than {longest}."
        yield checks.Error(message, "Make it longer: a run within its time limit is healthy.", id="reaper.E030")
