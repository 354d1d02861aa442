"""The one `Status`: what it holds at each depth, what healthy means, and that nothing is written."""

import re

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from freezegun import freeze_time

from reaper.conf import settings as conf
from reaper.models import Alert, LedgerEntry, Sweep
from reaper.reports.status import JUDGE_LIMIT, Depth, WorkerState, build_status, state_of_worker
from tests.factories import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    held_job,
    lost_job,
    orphan,
    queued_job,
    report,
    running_job,
    swept,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]

DEPTHS = list(Depth)
JUDGING = [Depth.OVERVIEW, Depth.ALL_RUNS]


def status(depth=Depth.OVERVIEW, at=NOW, **options):
    with freeze_time(at):
        return build_status(conf.adapters(), depth, **options)


def kind(name="crawl_job", **options):
    return next(each for each in status(**options).kinds if each.kind == name)


@pytest.mark.parametrize("depth", DEPTHS)
def test_status_without_stuck_runs_is_healthy(depth):
    swept()
    held_job(MINUTE)
    queued_job(SECOND)
    found = status(depth)
    assert found.is_healthy
    assert not found.has_warnings
    assert found.stuck_runs == 0


@pytest.mark.parametrize("depth", DEPTHS)
def test_unfinished_runs_are_counted_with_the_age_of_the_oldest(depth):
    queued_job(3 * SECOND)
    queued_job(MINUTE)
    held_job(10 * MINUTE)
    phases = kind(depth=depth).phases
    assert phases["running"].count == 1
    assert phases["running"].oldest == 10 * MINUTE
    assert phases["queued"].count == 2
    assert phases["queued"].oldest == MINUTE
    assert kind("source_result", depth=depth).phases["queued"].oldest is None


@pytest.mark.parametrize("depth", JUDGING)
def test_orphaned_run_is_stuck_with_its_verdict_and_evidence(depth):
    swept()
    run = orphan()
    found = kind(depth=depth)
    (line,) = found.lines
    assert line.id == str(run.pk)
    assert line.action == "fail"
    assert line.reason == "orphaned"
    assert "celery@dead" in line.evidence_text
    assert line.evidence["claimant_liveness"] == "dead"
    assert found.stuck_runs == 1
    assert not found.is_healthy


@pytest.mark.parametrize("depth", JUDGING)
def test_run_without_enough_evidence_is_stuck_though_nothing_is_done(depth):
    swept()
    running_job(10 * MINUTE, worker="celery@gone/1")
    found = kind(depth=depth)
    assert [line.reason for line in found.judged.undecided.lines] == ["inconclusive"]
    assert found.judged.acting.total == 0
    assert found.stuck_runs == 1


@pytest.mark.parametrize("depth", JUDGING)
def test_late_run_is_a_warning_and_not_stuck(depth):
    swept()
    held_job(31 * MINUTE)
    held_job(29 * MINUTE)
    found = status(depth)
    assert [line.alert for each in found.kinds for line in each.lines] == ["long_running"]
    assert found.late_runs == 1
    assert found.stuck_runs == 0
    assert found.is_healthy
    assert found.has_warnings


def test_open_alert_is_a_warning_until_acknowledged():
    swept()
    row = Alert.objects.create(name="no_consumer", kind="crawl_job", opened_at=NOW, seen_at=NOW)
    assert status().is_healthy
    assert status().has_warnings
    row.acknowledged_by = "ada"
    row.save()
    assert not status().has_warnings


@pytest.mark.parametrize("depth", DEPTHS)
def test_runs_left_by_the_last_sweep_are_stuck_unless_all_are_judged(depth):
    swept()
    Sweep.objects.filter(kind="crawl_job", phase="running").update(counts={"inconclusive": 3, "in_progress": 2})
    assert kind(depth=depth).stuck_runs == (0 if depth is Depth.ALL_RUNS else 3)


@pytest.mark.parametrize("depth", DEPTHS)
def test_condition_of_a_sweep_is_not_healthy(depth):
    swept()
    Sweep.objects.filter(kind="crawl_job", phase="queued").delete()
    found = kind(depth=depth)
    ((phase, code, message),) = found.conditions
    assert phase == "queued"
    assert code == "sweep_overdue"
    assert message == "never swept"
    assert not found.is_healthy
    assert kind("source_result", depth=depth).is_healthy


@pytest.mark.parametrize("depth", DEPTHS)
def test_kind_that_fails_to_load_keeps_its_sweeps_and_hides_no_other(depth, monkeypatch):
    swept()
    queued_job()
    monkeypatch.setattr(type(conf.adapters()["source_result"]), "summarize", lambda *arguments: 1 / 0)
    found = kind("source_result", depth=depth)
    assert found.error == "ZeroDivisionError: division by zero"
    assert not found.is_healthy
    assert found.sweeps
    assert kind(depth=depth).phases["queued"].count == 1


def test_overview_judges_only_the_oldest_runs_and_all_runs_judges_all():
    for number in range(JUDGE_LIMIT + 1):
        queued_job((number + 1) * SECOND)
    assert sum(kind(depth=Depth.OVERVIEW).judged.reasons.values()) == JUDGE_LIMIT
    assert sum(kind(depth=Depth.ALL_RUNS).judged.reasons.values()) == JUDGE_LIMIT + 1
    assert kind(depth=Depth.SWEEPS).judged is None


def test_limit_caps_the_lines_and_not_the_counts():
    for _ in range(3):
        orphan()
    found = kind(depth=Depth.ALL_RUNS, limit=2)
    assert len(found.judged.acting.lines) == 2
    assert found.judged.acting.total == 3
    assert found.stuck_runs == 3


def test_progress_is_reported_for_every_judged_run():
    orphan()
    queued_job()
    judged = []
    status(Depth.ALL_RUNS, report=judged.append)
    assert sum(judged) == 2


@pytest.mark.parametrize("depth", DEPTHS)
def test_status_writes_nothing(depth):
    swept()
    lost_job()
    orphan()
    before = (Sweep.objects.count(), LedgerEntry.objects.count())
    status(depth)
    with CaptureQueriesContext(connection) as captured:
        status(depth)
    assert not [each["sql"] for each in captured if re.match(r"\s*(INSERT|UPDATE|DELETE)", each["sql"])]
    assert (Sweep.objects.count(), LedgerEntry.objects.count()) == before


def test_sweeps_depth_asks_neither_the_broker_nor_the_rules(monkeypatch):
    orphan()
    for name in ("Broker", "judge_runs", "judge_unfinished", "scan_queues"):
        monkeypatch.setattr(f"reaper.reports.status.{name}", None)
    found = status(Depth.SWEEPS)
    assert not found.queues
    assert not found.alerts


def test_workers_are_listed_with_those_in_trouble_first():
    report("celery@a/1")
    report("celery@b/1", draining=True)
    report("celery@c/1", silent=HOUR)
    report("celery@d/1", ended_at=NOW)
    assert [(each.hostname, state_of_worker(each)) for each in status().workers] == [
        ("celery@c", WorkerState.DEAD),
        ("celery@b", WorkerState.DRAINING),
        ("celery@a", WorkerState.ALIVE),
        ("celery@d", WorkerState.SHUT_DOWN),
    ]


def test_queues_of_workers_and_kinds_have_their_depth(broker):
    report("celery@a/1", queues=["mail"])
    broker.client.lpush("mail", "x", "y")
    assert dict(status().queues)["mail"] == 2
    assert "crawl" in status().queues


def test_unreachable_broker_leaves_depths_unknown_with_a_reason(refusing_broker):
    found = status()
    assert set(found.queues.values()) == {None}
    assert found.queues_error
