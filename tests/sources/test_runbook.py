"""docs/RUNBOOK.md: its commands exist, and the dangers that it warns of are real."""

import re
import shlex
from importlib import import_module

import pytest
from celery import current_app
from celery.bin.base import CLIContext
from celery.bin.celery import celery
from celery.worker.control import Panel
from django.utils import timezone

from apps.sources import claims
from apps.sources.models import CrawlJob
from reaper.management.commands.reaper import Command
from tests import processes
from tests.factories import COMMITTED, fresh, parent, queued_job
from tests.processes import ROOT
from tests.reaper.command import named, reaper

TEXT = (ROOT / "docs" / "RUNBOOK.md").read_text()
# As code in a line, or as an indented line of its own.
NAMED = re.compile(r"(?:`|^    )((?:manage\.py|celery -A config\.celery) [^`\n]+)", re.M)
COMMANDS = sorted({match[1] for match in NAMED.finditer(TEXT)})

# As config.celery does for Celery's command line.
for each in ("config.command_line", "reaper.celery_commands"):
    import_module(each)


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("manage.py")])
def test_runbook_management_commands_are_understood(line):
    _, name, *words = shlex.split(line)
    assert name == "reaper"
    assert Command().create_parser("manage.py", name).parse_args(words).subcommand == words[0]


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("celery")])
def test_runbook_celery_commands_are_understood(line):
    name, *words = shlex.split(line)[3:]
    obj = CLIContext(app=current_app, no_color=True, workdir=".")
    context = celery.commands[name].make_context(name, words, obj=obj)
    if name in ("inspect", "control"):
        assert Panel.meta[context.params["command"]].type == name


def test_runbook_names_every_subcommand_and_both_added_celery_commands():
    for words in ("diagnose", "explain", "requeue", "fail", "finalize", "sweep"):
        assert any(line.startswith(f"manage.py reaper {words}") for line in COMMANDS)
    assert "celery -A config.celery inspect query TASK_ID" in COMMANDS
    assert "celery -A config.celery control revoke TASK_ID --terminate" in COMMANDS


@pytest.fixture
def broker():
    with processes.redis_server() as server, processes.broker_at(server.url):
        yield server


# --- its dangers ------------------------------------------------------------------------------------------------------


@pytest.fixture
def overtaken():
    """A running job as somebody read it, who was then overtaken by its completion."""
    job = queued_job()
    hold = claims.claim(CrawlJob, job.pk, job.task_id, "worker")
    read = fresh(job)
    hold.complete({"pages": 7, "found": 5, "new": 4, "duplicates": 1, "errors": 0})
    return read


@COMMITTED
def test_save_from_stale_object_overwrites_completion(overtaken):
    overtaken.status, overtaken.completed_at = "failed", timezone.now()
    overtaken.save()
    after = fresh(overtaken)
    assert after.status == "failed"
    assert after.pages_crawled == 0
    assert after.new_articles == 0


@COMMITTED
def test_only_update_with_condition_spares_completed_run(overtaken):
    seen = CrawlJob.objects.filter(pk=overtaken.pk, status=overtaken.status, task_id=overtaken.task_id)
    assert seen.update(status="failed") == 0
    assert fresh(overtaken).status == "completed"
    assert CrawlJob.objects.filter(pk=overtaken.pk).update(status="failed") == 1
    assert fresh(overtaken).status == "failed"
    assert fresh(overtaken).pages_crawled == 7


@pytest.mark.django_db(transaction=True)  # of all apps, for the command checks them
@pytest.mark.parametrize("word", ["fail", "requeue"])
def test_fail_command_leaves_completed_run(overtaken, word):
    before = fresh(overtaken).__dict__
    code, _, told = reaper(word, named(overtaken))
    assert code == 1
    assert "has finished" in told
    assert {**fresh(overtaken).__dict__, "_state": None} == {**before, "_state": None}


@pytest.mark.django_db(transaction=True)
def test_manually_completed_parent_keeps_totals_and_children_are_skipped(broker):
    job = parent("completed", "pending")
    job.source_results.filter(status="completed").update(pages_crawled=3)
    job.status, job.completed_at = "completed", timezone.now()
    job.save()
    assert reaper("sweep")[0] == 0
    assert sorted(job.source_results.values_list("status", flat=True)) == ["completed", "skipped"]
    assert fresh(job).pages_crawled == 0
    assert fresh(job).error_message == ""
    assert fresh(job).finalized_at is None
