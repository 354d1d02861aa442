"""What a person asks for: the same writes, ledger and outbox."""

import pytest
from django.db import DatabaseError, connection
from freezegun import freeze_time

from apps.sources.models import CrawlJob
from reaper.conf import settings as conf
from reaper.core.decisions import PUBLISH_GRACE
from reaper.core.policy import Action
from reaper.models import LedgerEntry, Sweep
from reaper.sweeps import manual
from tests.factories import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    fresh,
    held_job,
    lost_job,
    parent,
    queued_job,
    running_job,
)
from tests.reaper.sweeps.helpers import LATER, LOST, act_manually, lose, sweep_queued
from tests.servers import killed

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]


def test_manual_fail_is_in_the_ledger_with_its_actor(broker):
    job = held_job(MINUTE)
    done, row = act_manually("crawl_job", job, Action.FAIL)
    assert done is True
    assert fresh(job).status == "failed"
    assert fresh(job).error_code == "manual"
    assert fresh(job).error_message == "Failed by ada (rule manual). It had been running for 1 min."
    reaping = LedgerEntry.objects.get()
    assert reaping.actor == "ada"
    assert reaping.reason == "manual"
    assert reaping.sweep == row
    assert broker.revokes() == [killed([job.task_id], "celery@w1")]


def test_manual_requeue_ignores_and_resets_budget(broker, limits):
    limits(MAX_REDISPATCHES=1)
    job = lost_job(LOST)
    sweep_queued()
    done, _ = act_manually("crawl_job", job, Action.REQUEUE)
    assert done is True
    assert broker.ids()[-1] == fresh(job).task_id
    assert broker.revokes()[-1].terminate is False
    lose(broker, job, at=NOW + LATER)
    assert sweep_queued(at=NOW + LATER).acted == 1
    assert fresh(job).status == "pending"


def test_manual_action_on_changed_run_is_refused(broker):
    job = running_job(MINUTE)
    run = conf.adapters()["crawl_job"].get(str(job.pk))
    CrawlJob.objects.filter(pk=job.pk).update(status="completed")
    for _ in range(2):
        done, row = manual.act_on_run(conf.adapters()["crawl_job"], run, Action.FAIL, "ada")
        assert not done
        assert row.conflicts == 1
        assert not row.idle
    assert fresh(job).status == "completed"
    assert LedgerEntry.objects.count() == 0
    assert broker.revokes() == []


def test_manual_requeue_while_broker_is_down_is_sent_later(broker, monkeypatch, tmp_path):
    job = queued_job(MINUTE)
    with monkeypatch.context() as patch:
        patch.setenv("CELERY_BROKER_WRITE_URL", f"redis+socket://{tmp_path}/nobody.sock")
        done, row = act_manually("crawl_job", job, Action.REQUEUE)
    assert done is True
    assert "the broker did not answer" in row.error_messages[0]
    sweep_queued(at=NOW + PUBLISH_GRACE + SECOND)
    assert broker.ids() == [fresh(job).task_id]


def test_manual_completion_of_parent_happens_once():
    job = parent("failed")
    with freeze_time(NOW):
        rows = [manual.finalize(conf.adapters()["source_result"], str(job.pk), "ada") for _ in range(2)]
    assert [(done, row.finalized, row.idle) for done, row in rows] == [(True, 1, False), (False, 0, False)]
    assert fresh(job).status == "failed"
    assert fresh(job).error_message == "All 1 sources failed"
    reaping = LedgerEntry.objects.get()
    assert reaping.actor == "ada"
    assert reaping.reason == "manual"
    assert reaping.action == "finalize"


def test_manual_actions_have_their_own_scope():
    """Otherwise a person's act would hide that the sweeps have stopped."""
    act_manually("crawl_job", running_job(), Action.FAIL)
    manual.finalize(conf.adapters()["source_result"], "7", "ada")
    assert set(Sweep.objects.values_list("phase", flat=True)) == {"manual"}


def test_manual_fail_of_last_child_completes_parent():
    job = parent("completed", "running")
    done, row = act_manually("source_result", job.source_results.get(status="running"), Action.FAIL)
    assert done
    assert row.finalized == 1
    assert fresh(job).finalized_at == NOW


@pytest.mark.django_db(transaction=True)
def test_manual_action_repeated_is_done_once(broker):
    """Two plans made from the same reading: only the first is carried out."""
    job = running_job(2 * HOUR)
    run = conf.adapters()["crawl_job"].get(str(job.pk))
    outcomes = [manual.act_on_run(conf.adapters()["crawl_job"], run, action, "ada")[0] for action in (Action.FAIL,) * 2]
    assert outcomes == [True, False]
    assert LedgerEntry.objects.count() == 1
    with pytest.raises(DatabaseError), connection.cursor() as cursor:
        cursor.execute("SELECT no_such_column FROM crawl_jobs")
