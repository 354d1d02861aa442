"""The alert rules and the dashboard: they pass Prometheus's own checks, and name only existing metrics."""

import json
import re
import shutil
import subprocess

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from reaper.monitoring import metrics
from tests.factories import queued_job, swept
from tests.fixtures import broker, limits, redis_server
from tests.processes import ROOT
from tests.reaper.ledger.test_totals import count_all, record_entry, record_refusal

__all__ = ["broker", "limits", "redis_server"]  # fixtures
RULES = ROOT / "ops" / "prometheus"
DASHBOARD = ROOT / "ops" / "grafana" / "reaper.json"
NAME = re.compile(r"\breaper_\w+")


@pytest.fixture
def samples(db, broker, limits):
    """The names of the samples of a busy reaper, with the labels of each."""
    swept()
    queued_job()
    record_entry()
    record_refusal()
    count_all()
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {each.name: set(each.labels) for family in families for each in family.samples}


def expressions():
    """Return every expression of the rules and the dashboard."""
    rules = yaml.safe_load((RULES / "reaper.rules.yml").read_text())
    asked = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return asked + [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.mark.parametrize("words", [("check", "rules", "reaper.rules.yml"), ("test", "rules", "reaper.rules.test.yml")])
def test_rules_pass_promtool(words):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian's package prometheus has it)")
    done = subprocess.run(["promtool", *words], cwd=RULES, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_a_firing_test():
    rules = yaml.safe_load((RULES / "reaper.rules.yml").read_text())
    tests = yaml.safe_load((RULES / "reaper.rules.test.yml").read_text())
    fires = {each["alertname"] for test in tests["tests"] for each in test["alert_rule_test"] if each["exp_alerts"]}
    assert fires == {rule["alert"] for group in rules["groups"] for rule in group["rules"]}


def test_rules_and_dashboard_use_only_existing_metrics(samples):
    asked = {name for expression in expressions() for name in NAME.findall(expression)}
    assert asked <= set(samples)
    assert {name for name in samples if not name.endswith(("_count", "_sum", "_bucket"))} - asked <= {
        "reaper_last_sweep_runs", "reaper_last_sweep_timestamp_seconds", "reaper_mode",
    }  # fmt: skip


def test_docs_name_every_metric(samples):
    page = (ROOT / "docs" / "OPERATING.md").read_text()
    names = {re.sub(r"_(count|sum|bucket)$", "", name) for name in samples}
    assert {name for name in names if f"`{name}`" not in page} == set()
