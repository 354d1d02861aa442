"""Django's system checks of the reaper: one id per mistake, each with one sentence and one hint.

E001 to E019 are the settings' and come from `conf`, E020 to E029 the adapters' own. E030 and up, and the warnings, are
about how all this fits to Celery.
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
from reaper.core.policy import Policy

# Celery runs all system checks whenever it imports the task modules, which one of them asks it to do.
importing: ContextVar[bool] = ContextVar("importing", default=False)


def check_reaper(app_configs: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """Return what is wrong with the settings; when they are right, what is wrong with the adapters and their tasks."""
    if broken := conf.problems():
        return [checks.Error(each.message, each.hint, id=each.id) for each in broken]
    found = list(check_beat())
    for adapter in conf.adapters().values():
        found += [*check_alert(adapter, conf.policy(adapter)), *check_adapter(adapter)]
    return [*found, *check_tasks()]


def abort_on_errors(**kwargs: Any) -> None:
    """Stop a worker or Beat whose settings are wrong, with the sentences. Receives `worker_init`, `beat_init`.

    Celery runs Django's checks as well when it starts, but goes on whatever they say.
    """
    if errors := [each for each in check_reaper() if each.level >= checks.ERROR]:
        raise SystemExit("\n".join(str(each) for each in errors))


def check_beat() -> Iterator[checks.CheckMessage]:
    """Without its scheduler nothing would sweep, and nothing would say so."""
    if not apps.is_installed("django_celery_beat"):
        hint = 'Add "django_celery_beat" to INSTALLED_APPS, or let `manage.py reaper run` sweep.'
        yield checks.Warning("No schedule starts the reaper's sweeps.", hint, id="reaper.W003")


def check_policy(adapter: RunAdapter, policy: Policy) -> list[checks.CheckMessage]:
    """Return what is wrong with these thresholds, were they those of a kind."""
    broken = list(import_tasks())
    task = current_app.tasks.get(adapter.task)
    return [*broken, *check_alert(adapter, policy), *(check_time_limit(adapter, task, policy) if task else ())]


def check_alert(adapter: RunAdapter, policy: Policy) -> Iterator[checks.CheckMessage]:
    """A run is failed at its timeout: an alert that is not earlier never comes."""
    if policy.alert_after >= policy.run_timeout:
        message = f"{adapter.kind}: ALERT_AFTER ({policy.alert_after}) is not shorter than RUN_TIMEOUT"
        hint = "Make it shorter, so that the warning comes before the run is ended."
        yield checks.Warning(f"{message} ({policy.run_timeout}).", hint, id="reaper.W001")


def check_adapter(adapter: RunAdapter) -> Iterator[checks.CheckMessage]:
    """What the adapter says of itself."""
    try:
        yield from adapter.check()
    except Exception as error:  # the host's code, which may raise anything
        message = f"{adapter.kind}: the adapter's check() failed ({type(error).__name__}: {error})."
        yield checks.Error(message, "Set what it needs, or mend it: it must return its findings.", id="reaper.E032")


def check_tasks() -> Iterator[checks.CheckMessage]:
    """The adapters' tasks."""
    if importing.get():
        return
    broken = list(import_tasks())
    yield from broken
    for adapter in conf.adapters().values() if not broken else ():
        yield from check_task(adapter, current_app.tasks)


def import_tasks() -> Iterator[checks.CheckMessage]:
    """Import the task modules: a web process or a command has not done so yet."""
    inside = importing.set(True)
    try:
        current_app.loader.import_default_modules()
    except Exception as error:  # importing runs the host's code, which may raise anything
        message = f"Celery's task modules cannot be imported ({type(error).__name__}: {error})."
        yield checks.Error(message, "Mend the import: no worker can start either.", id="reaper.E031")
    finally:
        importing.reset(inside)


def check_task(adapter: RunAdapter, tasks: Mapping[str, Task]) -> Iterator[checks.CheckMessage]:
    """The task of one adapter."""
    task = tasks.get(adapter.task)
    if task is None:
        message = f"{adapter.kind}: no Celery task is registered as {adapter.task!r}."
        hint = "Correct the adapter's `task`, or import the task in a module that the workers import."
        yield checks.Warning(message, hint, id="reaper.W002")
        return
    yield from check_time_limit(adapter, task, conf.policy(adapter))


def check_time_limit(adapter: RunAdapter, task: Task, policy: Policy) -> Iterator[checks.CheckMessage]:
    """A run that its own time limit would have ended must not be taken for stuck before."""
    limit = task.time_limit or task.app.conf.task_time_limit
    timeout = policy.run_timeout
    if limit and timeout <= timedelta(seconds=limit):
        message = f"{adapter.kind}: RUN_TIMEOUT ({timeout}) is not longer than the time limit of {adapter.task}"
        hint = "Make it longer: a run within its time limit is healthy."
        yield checks.Error(f"{message} ({timedelta(seconds=limit)}).", hint, id="reaper.E030")
