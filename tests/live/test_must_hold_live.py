"""What must never be touched, with real workers and the default thresholds, and what must be found among it."""

import signal
from datetime import timedelta

import pytest
from django.db import connection

from reaper.models import Reaping, WorkerReport
from tests.worlds import COMMITTED

pytestmark = [
    pytest.mark.live,
    pytest.mark.long,
    pytest.mark.timeout(240),
    COMMITTED,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="a worker cannot share SQLite's test database"),
]

HOUR = timedelta(hours=1)


def test_runs_that_a_live_worker_holds_are_left_alone_whatever_makes_it_look_dead(stage, broker):
    """Each worker looks dead in a way of its own, for longer than the silence limit; in the end all runs complete."""
    odd = {"ahead": "ahead", "behind": "behind", "old": "mute", "computing": "computing", "redelivered": "forgetful"}
    pools = {"busy": ["-P", "solo"], "computing": ["-P", "solo"], "redelivered": ["-c", "2"]}
    names = ("busy", "draining", "stopped", *odd)
    for name in ("stays", *names):
        stage.start(name, *pools.get(name, []), odd=odd.get(name, ""))
    stage.await_ready("stays", *names)
    stage.crawl("redelivered")
    for name in names:
        if name != "redelivered":
            stage.crawl(name)
    stage.await_under_way(*names)
    stage.signal("draining", signal.SIGTERM)
    stage.until(lambda: "redelivered" in refused(stage), "the second copy is refused")
    stage.until(stage.has_witness, "somebody has been reporting for long enough")

    stage.signal("stopped", signal.SIGSTOP)
    stage.go_on(9)
    assert stage.is_stopped("stopped")
    stage.signal("stopped", signal.SIGCONT)
    stage.go_on(5)
    for name, by in (("ahead", HOUR), ("behind", -HOUR)):
        report = WorkerReport.objects.get(hostname=f"{name}@test")
        assert abs(report.listed_at - report.seen_at - by) < timedelta(minutes=1)
    assert not WorkerReport.objects.filter(hostname="old@test").exists()
    assert WorkerReport.objects.get(hostname="draining@test").draining

    before = broker.process.pid
    with broker.restarted():
        for _ in range(3):
            assert all(row.acted == 0 for row in stage.sweep())
    assert broker.process.pid != before
    stage.go_on(5)
    assert (stage.statuses(), stage.reaped()) == (dict.fromkeys(names, "running"), {})
    stage.let_go(*names)
    stage.until(lambda: set(stage.statuses().values()) == {"completed"}, "all of them complete")
    assert stage.wrongly_reaped() == set()
    assert claims(stage).count("redelivered") == 1, "the second copy did no work"
    assert not Reaping.objects.exists()


def refused(stage):
    """The runs by name whose task was refused."""
    return events(stage, "refused")


def claims(stage):
    """The runs by name, once for each task that claimed one."""
    return events(stage, "claimed")


def events(stage, what):
    names = {stage.key(name): name for name in stage.runs}
    return [names[event.run] for event in stage.watch.journal if event.event == what]
