"""The policy in effect: overrides win over the settings, and the sweeps obey."""

from dataclasses import asdict
from datetime import timedelta
from functools import partial
from itertools import pairwise

import pytest
from django.db import connection

from reaper.conf import settings as conf
from reaper.controls.overrides import OVERRIDABLE, effective_policy, effective_values
from reaper.core.formatting import format_value
from reaper.core.policy import Action
from reaper.models import LedgerEntry, PolicyOverride
from tests.factories import COMMITTED, HOUR, MINUTE, NOW, SECOND, fresh, held_job, orphan, run_concurrently
from tests.reaper.controls.operators import adapter, overridden
from tests.reaper.sweeps.helpers import sweep

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]
DAY = timedelta(days=1)


def test_policy_without_override_is_that_of_settings():
    assert effective_policy(adapter()) == conf.policy(adapter())
    assert {each.source for each in effective_values(adapter()).values()} <= {
        "the default", "the adapter", "the settings", "the settings of the kind",
    }  # fmt: skip


def test_override_wins_over_settings_of_its_kind_only():
    overridden(run_timeout=3 * HOUR, stall_timeout=None, backoff=(5 * SECOND,), on_timeout=Action.REQUEUE)
    policy = effective_policy(adapter())
    assert policy.run_timeout == 3 * HOUR
    assert policy.backoff == (5 * SECOND,)
    assert policy.on_timeout == Action.REQUEUE
    assert effective_policy(adapter("source_result")) == conf.policy(adapter("source_result"))
    known = effective_values(adapter())["run_timeout"]
    assert known == (3 * HOUR, "override by ada on 2026-03-01", True, HOUR)


def test_newest_override_replaces_older_and_keeps_history():
    overridden(run_timeout=3 * HOUR)
    overridden("bob", alert_after=20 * MINUTE)
    overridden("eve")
    assert effective_policy(adapter()) == conf.policy(adapter())
    assert [(row.actor, row.summary) for row in PolicyOverride.objects.order_by("id")] == [
        ("ada", "run_timeout: 1 h -> 3 h"),
        ("bob", "run_timeout: 3 h -> 1 h; alert_after: 30 min -> 20 min"),
        ("eve", "alert_after: 20 min -> 30 min"),
    ]


@pytest.mark.parametrize(
    "values",
    [
        {"run_timeout": "soon"},
        {"run_timeout": -1},
        {"fly": 1},
        {"mode": "off"},
        {"on_orphan": "leave"},
        [],
        "x",
        None,
        7,
    ],
)
def test_override_of_another_version_is_ignored(values):
    PolicyOverride.objects.create(
        kind="crawl_job", created_at=NOW, actor="ada", values={} if values is None else values
    )
    assert effective_policy(adapter()) == conf.policy(adapter())


def test_every_field_survives_storage_as_override():
    values = {name: effective_policy(adapter()).__getattribute__(name) for name in OVERRIDABLE}
    values |= {"stall_timeout": 90 * SECOND, "max_requeues": 7}
    overridden(**values)
    assert asdict(effective_policy(adapter())) == {**values, "mode": conf.policy(adapter()).mode}


@COMMITTED
@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")
def test_concurrent_overrides_each_record_what_they_changed():
    overridden(run_timeout=2 * HOUR)

    def many(by, first):
        for number in range(20):
            overridden(by, run_timeout=(first + number) * HOUR)

    run_concurrently(partial(many, "bob", 100), partial(many, "eve", 200))
    rows = list(PolicyOverride.objects.order_by("id"))
    assert len(rows) == 41
    for before, after in pairwise(rows):
        old, new = (format_value(timedelta(seconds=row.values["run_timeout"])) for row in (before, after))
        assert after.changes == [f"run_timeout: {old} -> {new}"]


def test_next_sweep_uses_override():
    job = held_job(2 * HOUR)
    overridden(run_timeout=2 * HOUR)
    sweep()
    assert fresh(job).status == "running"
    overridden(run_timeout=2 * HOUR - SECOND)
    sweep()
    assert fresh(job).status == "failed"
    assert fresh(job).error_code == "timed_out"


def test_orphan_is_requeued_once_on_orphan_is_overridden():
    overridden(on_orphan=Action.REQUEUE)
    job = orphan()
    sweep()
    assert fresh(job).status == "pending"
    assert LedgerEntry.objects.get().action == "requeue"
