"""What an admin changes of a schedule, against a real Beat, worker, broker and HTTP server.

The watched schedule is that of the running runs. That of the pending ones is the control: while its sweeps go on, Beat
and the worker are alive, so a watched one that does not come was really not sent.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from datetime import datetime, timedelta
from urllib.parse import quote

import httpx
import pytest
from django.conf import global_settings, settings
from django.db import connection
from django.test import override_settings
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from kombu import Connection
from selectolax.lexbor import LexborHTMLParser

from config import embedded
from reaper.models import Sweep
from tests.processes import PATIENCE, wait_until

pytestmark = [pytest.mark.live, pytest.mark.long, pytest.mark.django_db(transaction=True), pytest.mark.timeout(600)]

logger = logging.getLogger(__name__)

WATCHED, CONTROL = "running", "queued"
TASKS = {WATCHED: "reaper.tasks.sweep_running", CONTROL: "reaper.tasks.sweep_pending"}
# What the project promises for a change in the admin.
PROMISED = timedelta(seconds=10)
ADMIN = {"username": "admin", "password": "correct horse battery"}


def last_sweep(phase):
    """When the last sweep of this phase started, or None."""
    row = Sweep.objects.filter(kind="crawl_job", phase=phase, idle=True).first()
    return row and row.started_at


def later_sweep(phase, than):
    """When the next sweep after this one started."""

    def later():
        stamp = last_sweep(phase)
        return stamp if stamp and (than is None or stamp > than) else None

    return wait_until(later, what=f"a sweep of the {phase} runs")


def pace(phase, sweeps=3):
    """The mean seconds between the next sweeps of this phase."""
    first = last = later_sweep(phase, last_sweep(phase))
    for _ in range(sweeps - 1):
        last = later_sweep(phase, last)
    return (last - first).total_seconds() / (sweeps - 1)


def watched_during_two_intervals():
    """The watched sweeps that started while the control, which has the same interval, was seen to go on for two."""
    before, control, seen = last_sweep(WATCHED), last_sweep(CONTROL), []
    for _ in range(3):
        control = later_sweep(CONTROL, control)
        if last_sweep(WATCHED) != before:
            before = last_sweep(WATCHED)
            seen.append(before)
    return seen


def database_url():
    """The address of the test database."""
    if connection.vendor != "postgresql":
        pytest.skip("the test database is in this process's memory, where no other process sees it")
    of = connection.settings_dict
    user = quote(of["USER"]) + (f":{quote(of['PASSWORD'])}" if of["PASSWORD"] else "")
    # A host that is a folder is that of a unix socket, and is written as the path's beginning.
    host, folder = ("", f"/{of['HOST']}") if of["HOST"].startswith("/") else (of["HOST"], "")
    return f"postgres://{user}@{host}:{of['PORT'] or 5432}{folder}/{of['NAME']}"


@pytest.fixture
def broker(tmp_path):
    """The address of a Redis of this test's own."""
    state = tmp_path / "servers"
    yield embedded.address("redis", state, durable=False)
    embedded.delete(state)


class Processes:
    """Real processes on the test database and the test's broker; each leads a group of its own."""

    def __init__(self, folder, environment):
        self.folder, self.environment, self.running = folder, {**os.environ, **environment}, {}

    def start(self, name, *arguments, keeps=()):
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=settings.BASE_DIR,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=keeps,
            )

    def start_beat(self):
        pid_file = self.folder / "beat.pid"
        pid_file.unlink(missing_ok=True)
        self.start("beat", "-m", "celery", "-A", "config.celery", "beat", "-l", "INFO", "--pidfile", str(pid_file))

    def start_worker(self):
        command = ("-m", "celery", "-A", "config.celery", "worker", "-Q", "reaper", "-P", "solo", "-l", "INFO")
        self.start("worker", *command, "--without-gossip", "--without-mingle", "--without-heartbeat")

    def start_server(self):
        """Start the HTTP server; return its address. It can be asked at once: the socket is there before it is."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            number = listening.fileno()
            bind = ("--bind", f"fd://{number}", "--no-control-socket")
            self.start("server", "-m", "gunicorn", "config.wsgi", *bind, keeps=[number])
            return f"http://127.0.0.1:{listening.getsockname()[1]}"

    def migrate(self):
        self.start("migrate", "manage.py", "migrate")
        assert self.running.pop("migrate").wait(PATIENCE) == 0

    def end(self, name, with_signal=signal.SIGTERM):
        process = self.running.pop(name)
        for number in (with_signal, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
                return

    def end_all(self):
        for name in list(self.running):
            self.end(name)
        for log in sorted(self.folder.glob("*.log")):
            logger.info("%s:\n%s", log.name, log.read_text())


@pytest.fixture
def processes(tmp_path, transactional_db, broker):
    started = Processes(tmp_path, {"DATABASE_URL": database_url(), "CELERY_BROKER_URL": broker, "DEBUG": "1"})
    yield started
    started.end_all()


class Browser:
    """A person in the admin, over HTTP: opens a page, changes fields of its form, presses save."""

    def __init__(self, client):
        self.client = client

    def submit(self, path, form, **changes):
        """Send the page's form with these changes; a field that is set to None is left out, as an unticked box is."""
        fields = {**self.fields(path, form), **changes}
        sent = {name: value for name, value in fields.items() if value is not None}
        answer = self.client.post(path, data=sent, headers={"Referer": str(self.client.base_url.join(path))})
        assert answer.status_code == 302, answer.text

    def fields(self, path, form):
        """What a browser would send if nothing was changed."""
        page = self.client.get(path)
        assert page.status_code == 200, page.text
        fields = {}
        for node in LexborHTMLParser(page.text).css_first(form).css("input, select, textarea"):
            kind, name = node.attributes.get("type"), node.attributes.get("name")
            if not name or kind == "submit" or (kind == "checkbox" and "checked" not in node.attributes):
                continue
            chosen = node.css_first("option[selected]") if node.tag == "select" else node
            value = node.text() if node.tag == "textarea" else chosen and chosen.attributes.get("value")
            fields[name] = value or ("on" if kind == "checkbox" else "")
        return fields

    def change(self, phase, **changes):
        """Change the schedule of this phase's sweeps; return when."""
        row = PeriodicTask.objects.get(task=TASKS[phase])
        path = f"/admin/django_celery_beat/periodictask/{row.pk}/change/"
        self.submit(path, "#periodictask_form", **changes)
        return timezone.now()

    def new_interval(self, seconds):
        """Make an interval; return what a form calls it."""
        path = "/admin/django_celery_beat/intervalschedule/add/"
        self.submit(path, "#intervalschedule_form", every=str(seconds), period="seconds")
        return str(IntervalSchedule.objects.get(every=seconds, period="seconds").pk)


@pytest.fixture
def browser(processes, django_user_model):
    # The web server knows only the hashers of the real settings.
    with override_settings(PASSWORD_HASHERS=global_settings.PASSWORD_HASHERS):
        django_user_model.objects.create_superuser(**ADMIN)
    with httpx.Client(base_url=processes.start_server(), timeout=30) as client:
        person = Browser(client)
        person.submit("/admin/login/", "#login-form", **ADMIN)
        yield person


def expiry_of_a_new_message(broker):
    """For how many seconds a watched message that is newly in the queue still counts; nobody else takes it."""
    with Connection(broker) as link, link.SimpleQueue("reaper") as queue:
        queue.clear()

        def expiry():
            message = queue.get(timeout=10)
            message.ack()
            expires = datetime.fromisoformat(message.headers["expires"])
            return message.headers["task"] == TASKS[WATCHED] and expires - timezone.now()

        return wait_until(expiry, what="a message that starts a watched sweep").total_seconds()


def test_changed_schedule_takes_effect_and_survives_restarts(browser, processes, broker):
    processes.start_worker()
    processes.start_beat()
    later_sweep(WATCHED, None)

    # A shorter interval: both schedules run every second.
    every_second, every_two = browser.new_interval(1), browser.new_interval(2)
    browser.change(CONTROL, interval=every_second, expire_seconds="1")
    changed = browser.change(WATCHED, interval=every_second, expire_seconds="1")
    wait_until(lambda: pace(WATCHED) < 2, what="sweeps every second")
    assert timezone.now() - changed < PROMISED + timedelta(seconds=3), "three of them were watched"

    # Switched off: it stops in time, and is not sent by a Beat that was killed and started again, nor after migrate.
    changed = browser.change(WATCHED, enabled=None)
    wait_until(lambda: not watched_during_two_intervals(), what="no sweep any more")
    stopped = last_sweep(WATCHED)
    assert stopped - changed < PROMISED
    processes.end("beat", signal.SIGKILL)
    processes.migrate()
    processes.start_beat()
    assert watched_during_two_intervals() == []

    # Changed while it is off, and switched on again: it runs at its new pace, also after restart and migrate.
    browser.change(WATCHED, interval=every_two, expire_seconds="50")
    assert watched_during_two_intervals() == []
    changed = browser.change(WATCHED, enabled="on")
    assert later_sweep(WATCHED, stopped) - changed < PROMISED
    assert 1.5 < pace(WATCHED) < 4
    processes.end("beat")
    processes.migrate()
    processes.start_beat()
    later_sweep(CONTROL, last_sweep(CONTROL))
    assert 1.5 < pace(WATCHED) < 4

    row = PeriodicTask.objects.get(task=TASKS[WATCHED])
    assert (row.enabled, row.interval.every, row.expire_seconds) == (True, 2, 50)
    processes.end("worker")
    assert 40 < expiry_of_a_new_message(broker) <= 50
