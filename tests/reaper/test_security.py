"""What must not be done, and what must not be seen: pickled messages, secrets, and names that are more than names."""

import base64
import json
import pickle
from pathlib import Path

import pytest
from django.core import serializers
from django.urls import reverse
from freezegun import freeze_time

from apps.sources.reaping import CrawlJobs
from reaper import models, tasks
from reaper.adapters import Message
from reaper.core.facts import Phase
from reaper.core.formatting import MAX_LENGTH, one_line
from reaper.monitoring import metrics
from tests.factories import COMMITTED, HOUR, MINUTE, NOW, fresh, queued_job, report, running_job
from tests.processes import PATIENCE, wait_until, worker
from tests.reaper.command import reaper
from tests.reaper.sweeps.helpers import sweep, sweep_queued, unsent_job

CANARY = "canary-7f3a9"
HOSTILE = "w\x1b[2J\n2026-03-01 ERROR root: all is lost\r<script>alert(1)</script>\u202e"
KEPT = [each for each in vars(models).values() if isinstance(each, type) and each.__module__ == models.__name__]

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


def everything_kept():
    """All that the reaper has written down."""
    return "".join(serializers.serialize("json", each.objects.all()) for each in KEPT)


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (Path(self.file),)


def pickled(task, file):
    """A message of Celery's whose body is pickled, as it lies in Redis."""
    body = base64.b64encode(pickle.dumps(((Bomb(file),), {}, {}))).decode()
    headers = {"task": task, "id": CANARY, "lang": "py", "argsrepr": "()", "kwargsrepr": "{}"}
    delivery = {"exchange": "", "routing_key": "crawl"}
    properties = {
        "body_encoding": "base64",
        "delivery_info": delivery,
        "delivery_tag": CANARY,
        "correlation_id": CANARY,
    }
    kind = {"content-type": "application/x-python-serialize", "content-encoding": "binary"}
    return json.dumps({"body": body, "headers": headers, "properties": properties, **kind})


# --- pickle -------------------------------------------------------------------------------------------------------


@pytest.mark.live
@COMMITTED
def test_worker_refuses_pickled_message_and_continues(broker, tmp_path):
    bomb, log = tmp_path / "bomb", tmp_path / "log"
    for queue, task in (("crawl", "apps.sources.tasks.crawl_source"), ("reaper", "reaper.tasks.sweep_running")):
        broker.client.lpush(queue, pickled(task, bomb))
    environment = {"CELERY_BROKER_URL": broker.url, "CELERY_BROKER_WRITE_URL": ""}
    with worker("safe", log, "-Q", "crawl,reaper", "-P", "solo", environment=environment) as process:
        wait_until(lambda: log.read_text().count("Refusing to deserialize") >= 2, PATIENCE, f"it refuses, see {log}")
        assert process.poll() is None
    assert not bomb.exists()


def test_sweep_reads_pickled_message_without_unpickling(broker, tmp_path):
    job = queued_job(MINUTE, task_id=CANARY)
    broker.client.lpush("crawl", pickled("apps.sources.tasks.crawl_source", tmp_path / "bomb"))
    row = sweep_queued()
    assert row.counts == {"backlog": 1}
    assert fresh(job).task_id == CANARY
    assert not (tmp_path / "bomb").exists()


# --- secrets ------------------------------------------------------------------------------------------------------


def shown(client, job):
    """All that people and machines are shown: the terminal, the pages, the metrics."""
    outputs = [*reaper("explain", f"crawl_job:{job.pk}"), *reaper("diagnose", "--json"), *reaper("status")]
    outputs += [*reaper("status", "--json"), metrics.exposition().decode()]
    for page in ("/admin/reaper/", f"/admin/reaper/sweep/run/crawl_job/{job.pk}/", "/metrics"):
        outputs.append(client.get(page).content.decode())
    return outputs


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("url", ["redis://:{}@127.0.0.1:1/0", "amqp://ann:{}@127.0.0.1:1//"])
def test_broker_password_is_never_shown(monkeypatch, caplog, url, admin_client):
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", url.format(CANARY))
    job = running_job(2 * HOUR)
    unsent_job()
    outputs = [sweep().summary, sweep_queued().summary, *reaper("sweep"), *shown(admin_client, job)]
    tasks.raise_alerts()
    assert "publishing to the broker failed" in outputs[0]
    assert CANARY not in "".join(map(str, [*outputs, caplog.text, everything_kept()]))


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("setting", ["METRICS_TOKEN", "ALERT_WEBHOOK"])
def test_token_and_webhook_address_are_never_shown(caplog, admin_client, limits, setting):
    limits(**{setting: {"METRICS_TOKEN": CANARY * 3, "ALERT_WEBHOOK": f"http://127.0.0.1:1/{CANARY}"}[setting]})
    job = running_job(2 * HOUR)
    tasks.raise_alerts()
    tasks.send_notifications()
    outputs = [sweep().summary, *shown(admin_client, job)]
    assert CANARY not in "".join(map(str, [*outputs, caplog.text, everything_kept()]))


@pytest.mark.django_db(transaction=True)
def test_task_arguments_are_never_shown(broker, caplog, admin_client):
    class Secret(CrawlJobs):
        def messages(self, runs):
            return {run.pk: Message([CANARY], {"token": CANARY}) for run in runs}

    job = unsent_job()
    assert sweep(Secret(), Phase.QUEUED).acted == 1
    assert CANARY in str(broker.waiting())
    outputs = shown(admin_client, job)
    assert CANARY not in "".join(map(str, [*outputs, caplog.text, everything_kept()]))


def test_unsendable_task_arguments_are_never_shown(broker, caplog):
    class Unsendable(CrawlJobs):
        def messages(self, runs):
            return {run.pk: Message([{CANARY: object()}]) for run in runs}

    unsent_job()
    row = sweep(Unsendable(), Phase.QUEUED)
    assert "cannot be sent" in row.error_messages[0]
    assert CANARY not in row.error_messages[0] + caplog.text + everything_kept()


# --- names that are more than names -------------------------------------------------------------------------------


@pytest.fixture
def hostile():
    """A stuck run whose every text is hostile, and a report of a worker of that name."""
    job = running_job(2 * HOUR, worker=f"{HOSTILE}/abc", task_id=HOSTILE, error_message=HOSTILE)
    report(f"{HOSTILE}/abc", active={HOSTILE: NOW.timestamp()})
    return job


@pytest.mark.django_db(transaction=True)
def test_hostile_name_is_printed_on_one_line(hostile):
    for words in (
        ["diagnose"],
        ["explain", f"crawl_job:{hostile.pk}"],
        ["sweep"],
        ["explain", f"crawl_job:{hostile.pk}"],
    ):
        output = "".join(map(str, reaper(*words)))
        assert not set("\x1b\r\u202e") & set(output)
        assert not any(line.startswith("2026-03-01 ERROR") for line in output.splitlines())


@pytest.mark.filterwarnings("ignore:No directory at:UserWarning")
def test_hostile_name_is_escaped_on_every_page(hostile, admin_client):
    sweep()
    with freeze_time(NOW):
        models.RefusedWrite.objects.create(
            created_at=NOW, kind="crawl_job", run_id=HOSTILE, worker=HOSTILE, write="claim"
        )
    shown = 0
    for model in (models.Sweep, models.LedgerEntry, models.RefusedWrite, models.WorkerHeartbeat):
        name = model._meta.model_name
        row = model.objects.first()
        for url in (reverse(f"admin:reaper_{name}_changelist"), reverse(f"admin:reaper_{name}_change", args=[row.pk])):
            page = admin_client.get(url).content.decode()
            assert "<script>alert" not in page
            shown += "&lt;script&gt;alert" in page
    assert shown >= 5


def test_error_text_of_any_length_is_one_short_line(monkeypatch, caplog):
    class Broken(CrawlJobs):
        def apply(self, changes, now):
            raise ValueError(HOSTILE * 1000)

    running_job(2 * HOUR)
    row = sweep(Broken())
    assert [len(each) <= MAX_LENGTH + 1 and each.isprintable() for each in row.error_messages] == [True]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", "plain"),
        ("a\nb\tc", "a b c"),
        ("\x1b[31mred", " [31mred"),
        ("ä € 漢", "ä € 漢"),
        ("x" * MAX_LENGTH, "x" * MAX_LENGTH),
        ("x" * (MAX_LENGTH + 1), "x" * MAX_LENGTH + "…"),
        (None, "None"),
    ],
)
def test_one_line_replaces_breaks_and_control_characters(text, line):
    assert one_line(text) == line


def test_error_of_broken_sweep_is_one_line(monkeypatch):
    def broken(*_):
        raise RuntimeError(HOSTILE)

    monkeypatch.setattr("reaper.sweeps.sweep.judge_phase", broken)
    assert [each.isprintable() for each in sweep().error_messages] == [True]
