"""The metrics: each figure comes from the rows that it is about, and Prometheus's own parser accepts them."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from freezegun import freeze_time
from prometheus_client.parser import text_string_to_metric_families

from reaper.conf import settings as conf
from reaper.controls.modes import set_controls
from reaper.core.policy import Mode
from reaper.core.reasons import HEALTHY_REASONS, Reason
from reaper.models import LedgerEntry, Sweep
from reaper.monitoring import metrics
from reaper.reports.status import WorkerState
from tests.factories import HOUR, MINUTE, NOW, SECOND, orphan, queued_job, report, running_job, swept
from tests.reaper.ledger.test_totals import count_all, record_entry, record_refusal
from tests.reaper.sweeps.helpers import sweep

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


def scraped(at=NOW):
    """The samples, by name and labels as they are written."""
    with freeze_time(at):
        text = metrics.exposition().decode()
    families = text_string_to_metric_families(text)
    return {(each.name, *sorted(each.labels.items())): each.value for family in families for each in family.samples}


def value(name, at=NOW, **labels):
    return scraped(at).get((f"reaper_{name}", *sorted(labels.items())))


def test_runs_are_counted_by_kind_and_phase_with_the_oldest_age():
    queued_job(3 * SECOND)
    queued_job(2 * MINUTE)
    running_job(HOUR)
    running_job(status="failed")
    found = scraped()
    labels = {phase: (("kind", "crawl_job"), ("phase", phase)) for phase in ("queued", "running")}
    assert found["reaper_runs", *labels["queued"]] == 2
    assert found["reaper_oldest_run_seconds", *labels["queued"]] == 120
    assert found["reaper_runs", *labels["running"]] == 1
    assert found["reaper_oldest_run_seconds", *labels["running"]] == 3600
    assert found["reaper_runs", ("kind", "source_result"), ("phase", "running")] == 0
    assert found["reaper_oldest_run_seconds", ("kind", "source_result"), ("phase", "running")] == 0


def test_totals_cover_everything_since_the_beginning():
    record_entry(seconds=7)
    record_entry(seconds=100)
    record_refusal()
    count_all()
    assert value("actions_total", kind="crawl_job", action="fail", reason="orphaned") == 2
    assert value("rejected_writes_total", kind="crawl_job", write="claim") == 1
    found = {bound: value("recovery_seconds_bucket", kind="crawl_job", le=bound) for bound in ("5.0", "10.0", "120.0")}
    assert found == {"5.0": 0, "10.0": 1, "120.0": 2}
    assert value("recovery_seconds_count", kind="crawl_job") == 2
    assert value("recovery_seconds_sum", kind="crawl_job") == 107


def test_recovery_time_starts_at_the_last_heartbeat():
    orphan(MINUTE)
    sweep()
    assert LedgerEntry.objects.get().unattended_seconds == 60
    assert value("recovery_seconds_sum", kind="crawl_job") == 60


def test_last_sweep_has_its_reasons_and_stuck_runs():
    swept()
    counts = {"within_grace": 5, "in_progress": 2, "orphaned": 3, "inconclusive": 1}
    Sweep.objects.create(
        kind="crawl_job", phase="running", started_at=NOW, finished_at=NOW + 2 * SECOND, acted=3, counts=counts
    )
    scope = {"kind": "crawl_job", "phase": "running"}
    assert value("stuck_runs", **scope) == 1
    assert {reason: value("last_sweep_runs", reason=reason, **scope) for reason in counts} == counts
    assert value("last_sweep_duration_seconds", **scope) == 2
    assert value("last_sweep_timestamp_seconds", **scope) == (NOW + 2 * SECOND).timestamp()


def test_stuck_reasons_are_all_that_are_not_healthy():
    assert {str(each) for each in Reason} - set(HEALTHY_REASONS) == {
        "children_ended",
        "inconclusive",
        "judging_failed",
        "lost",
        "manual",
        "never_sent",
        "no_timestamp",
        "orphaned",
        "overtaken",
        "parent_ended",
        "stalled",
        "stranded",
        "timed_out",
        "unknown_status",
        "unpublished",
    }


def test_failed_sweep_is_the_last_sweep_and_no_success():
    swept(NOW - MINUTE)
    Sweep.objects.create(
        kind="crawl_job",
        phase="running",
        started_at=NOW,
        finished_at=NOW,
        errors=[{"code": "brake_engaged", "message": "most"}],
    )
    scope = {"kind": "crawl_job", "phase": "running"}
    assert value("last_sweep_timestamp_seconds", **scope) == NOW.timestamp()
    assert value("last_success_timestamp_seconds", **scope) == (NOW - MINUTE).timestamp()
    assert value("condition", condition="brake_engaged", **scope) == 1
    assert value("condition", condition="sweep_failing", **scope) == 0


def test_kind_never_swept_has_no_success_time_and_is_overdue():
    scope = {"kind": "crawl_job", "phase": "running"}
    assert value("last_success_timestamp_seconds", **scope) is None
    assert value("condition", condition="sweep_overdue", **scope) == 1


def test_mode_is_the_effective_one():
    set_controls(conf.adapters()["crawl_job"], "ada", NOW, mode=Mode.DRY_RUN)
    found = {mode: value("mode", kind="crawl_job", mode=mode) for mode in ("act", "dry_run", "off")}
    assert found == {"act": 0, "dry_run": 1, "off": 0}


def test_workers_are_counted_by_state_with_the_worst_clock_offset():
    report("celery@a/1")
    report("celery@b/1", draining=True)
    report("celery@c/1", silent=HOUR)
    report("celery@d/1", listed_at=NOW + 288 * SECOND)
    report("celery@e/1", ended_at=NOW)
    assert {state: value("workers", state=state) for state in WorkerState} == {
        "alive": 2,
        "draining": 1,
        "dead": 1,
        "shut_down": 1,
    }
    assert value("worker_clock_offset_seconds") == 288


def test_unreadable_kind_sets_scrape_failed_and_hides_no_other(monkeypatch):
    queued_job()
    broken = conf.adapters()["source_result"]
    monkeypatch.setattr(type(broken), "summarize", lambda *arguments: 1 / 0)
    assert value("scrape_failed", kind="source_result") == 1
    assert value("scrape_failed", kind="crawl_job") == 0
    assert value("runs", kind="crawl_job", phase="queued") == 1
    assert value("runs", kind="source_result", phase="queued") is None


def test_oldest_run_is_that_of_all_statuses_of_a_phase(parcels):
    parcels.create(stage="new", made=NOW - MINUTE)
    parcels.create(stage="again", made=NOW - HOUR)
    parcels.create(stage="new")
    parcels.create(stage="done", made=NOW - 2 * HOUR)
    assert value("runs", kind="parcel", phase="queued") == 3
    assert value("oldest_run_seconds", kind="parcel", phase="queued") == 3600


@pytest.mark.parametrize("rows", [1, 300])
def test_scrape_takes_the_same_few_queries_for_any_number_of_rows(rows):
    for _ in range(rows):
        record_entry()
    count_all()
    swept()
    with CaptureQueriesContext(connection) as captured, freeze_time(NOW):
        metrics.exposition()
    assert len(captured) <= 26


def test_label_values_are_escaped():
    record_entry(kind='a"b\nc', reason="x\\y")
    count_all()
    assert value("actions_total", kind='a"b\nc', action="fail", reason="x\\y") == 1
