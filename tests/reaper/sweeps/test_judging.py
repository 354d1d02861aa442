"""Judging without acting."""

import pytest
from freezegun import freeze_time

from reaper.broker.connection import Broker
from reaper.conf import settings as conf
from reaper.core.facts import Phase
from reaper.core.policy import Action
from reaper.evidence.collector import EvidenceCollector
from reaper.sweeps.judging import judge_phase, judge_run
from tests.factories import (
    HOUR,
    MINUTE,
    NOW,
    child,
    lost_job,
    orphan,
    parent,
    queued_job,
    running_job,
)
from tests.reaper.sweeps.helpers import LOST, everything, sweep, unsent_job

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


def plan(kind, phase):
    """What a sweep would do now, in pages."""
    adapter = conf.adapters()[kind]
    with freeze_time(NOW), Broker() as link:
        return list(judge_phase(adapter, phase, EvidenceCollector(adapter, link, conf.policy(adapter), NOW)))


def test_judging_writes_and_sends_nothing(broker):
    running_job(2 * HOUR)
    lost_job(LOST)
    unsent_job(MINUTE)
    queued_job(MINUTE)
    orphan()
    child(parent("completed", status="cancelled"), "running")
    sweep("source_result")
    broker.revokes()
    child(parent("completed", status="cancelled"), "running")
    before, reasons = everything(), set()
    for kind in conf.adapters():
        for phase in (Phase.RUNNING, Phase.QUEUED):
            for page in plan(kind, phase):
                reasons |= {str(verdict.decision.reason) for verdict in page}
    assert reasons == {"timed_out", "orphaned", "lost", "never_sent", "parent_ended", "inconclusive"}
    assert everything() == before
    assert broker.ids() == []
    assert broker.revokes() == []


def test_judged_actions_are_those_the_sweep_takes():
    stuck, young = running_job(2 * HOUR), running_job()
    (page,) = plan("crawl_job", Phase.RUNNING)
    assert {(each.run.pk, each.decision.action) for each in page} == {
        (str(stuck.pk), Action.FAIL),
        (str(young.pk), Action.LEAVE),
    }
    with freeze_time(NOW):
        assert judge_run(conf.adapters()["crawl_job"], str(stuck.pk), NOW) in page
    assert judge_run(conf.adapters()["crawl_job"], "7", NOW) is None
