"""The JSON: every key is documented, and all of it can be read back."""

import json
import re

import pytest
from freezegun import freeze_time

from reaper.conf import settings as conf
from reaper.controls.overrides import effective_values
from reaper.models import Alert, Sweep
from reaper.reports import json_output
from reaper.reports.judged import preview_policy
from reaper.reports.run_lines import RunLine
from reaper.reports.status import Depth, build_status
from tests.factories import MINUTE, NOW, SECOND, held_job, orphan, queued_job, swept
from tests.processes import ROOT

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]

LINE = RunLine("crawl_job", "7", "running", "fail", "orphaned", 90 * SECOND)


def read_back(document):
    return json.loads(json_output.dumps(document))


def status(depth):
    with freeze_time(NOW):
        return build_status(conf.adapters(), depth)


def keys_of(value):
    """All keys that a document has by itself, not those of data: reasons, phases, queues and the like are values."""
    data = {"reasons", "unfinished", "oldest_seconds", "conditions", "queues", "evidence", "policy"}
    if isinstance(value, list):
        return set().union(*map(keys_of, value)) if value else set()
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(keys_of(each) for key, each in value.items() if key not in data))


def test_every_key_is_documented():
    swept()
    orphan()
    Alert.objects.create(name="backlog", opened_at=NOW, seen_at=NOW)
    adapter = conf.adapters()["crawl_job"]
    documents = [
        json_output.status_document(status(Depth.OVERVIEW)),
        json_output.sweeps_document([Sweep(kind="a", phase="running")], [LINE], dry_run=False),
        json_output.preview_document(preview_policy(adapter, conf.policy(adapter))),
        json_output.policy_document("a", effective_values(adapter)),
        json_output.run_document(LINE, []),
        json_output.message_document(["done"], succeeded=True),
    ]
    page = (ROOT / "docs" / "JSON.md").read_text()
    documented = set(re.findall(r"`(\w+)`", page))
    assert {"schema"}.union(*(keys_of(read_back(each)) for each in documents)) <= documented


@pytest.mark.parametrize("depth", list(Depth))
def test_status_document_has_the_same_keys_at_every_depth(depth):
    swept()
    found = read_back(json_output.status_document(status(depth)))
    assert set(found) == {"schema", *json_output.status_document(status(Depth.OVERVIEW))}
    assert found["schema"] == 2
    assert found["depth"] == depth.name.lower()
    assert found["is_healthy"] is True


def test_status_document_equals_the_status():
    swept()
    run = orphan()
    held_job(31 * MINUTE)
    queued_job(SECOND)
    value = status(Depth.ALL_RUNS)
    found = read_back(json_output.status_document(value))
    assert found["is_healthy"] is value.is_healthy is False
    assert found["stuck_runs"] == value.stuck_runs == 1
    assert found["late_runs"] == value.late_runs == 1
    assert found["reasons"] == {"orphaned": 1, "in_progress": 1, "within_grace": 1}
    assert {each["id"]: each["action"] for each in found["runs"]}[str(run.pk)] == "fail"
    kind = found["kinds"][0]
    assert kind["unfinished"] == {"running": 2, "queued": 1}
    assert kind["oldest_seconds"]["queued"] == 1
    assert kind["mode"] == "act"


def test_running_tasks_are_not_counted_as_reserved():
    held_job(MINUTE)
    (worker,) = read_back(json_output.status_document(status(Depth.SWEEPS)))["workers"]
    assert worker["running"] == 1
    assert worker["reserved"] == 0
    assert worker["state"] == "alive"


def test_run_has_its_age_in_whole_seconds():
    (run,) = json_output.runs_document([LINE])
    assert run["age_seconds"] == 90
    assert json_output.runs_document([LINE._replace(age=None)])[0]["age_seconds"] is None


def test_times_are_written_in_iso_8601():
    assert read_back({"at": NOW}) == {"schema": 2, "at": NOW.isoformat()}
