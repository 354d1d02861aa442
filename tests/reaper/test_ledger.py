"""The ledger: what it keeps, and what it makes of a run's past."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st

from apps.sources import claims, dispatch
from apps.sources.models import CrawlJob
from apps.sources.reaping import CrawlJobs, SourceResults
from reaper.adapters import RunUpdate
from reaper.conf import settings as conf
from reaper.core.decisions import Decision, decide
from reaper.core.facts import NO_EVIDENCE, Evidence, History, Liveness, Phase, RunFacts
from reaper.core.policy import Action
from reaper.core.reasons import Reason
from reaper.core.serialization import evidence_from_json, facts_from_json, to_compact, to_dict, to_json
from reaper.ledger.delivery import confirm_dispatches, owed_revokes, sweeps_owing_revokes
from reaper.ledger.history import apply_row, entries_of_run, with_history
from reaper.ledger.manual import record_finalization
from reaper.ledger.writing import record_updates
from reaper.models import LedgerEntry, RefusedWrite, Sweep, WorkerHeartbeat
from reaper.sweeps.sweep import sweep
from reaper.workers.timing import DEAD_AFTER
from tests.factories import NOW, SECOND, queued_job, running_job
from tests.reaper.core.cases import DEAD, REPEATS, queued, running
from tests.reaper.core.strategies import POLICIES, always, evidences
from tests.reaper.core.strategies import runs as any_runs

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
ADAPTER = CrawlJobs()
RUN = RunFacts(kind="crawl_job", pk="7", phase=Phase.QUEUED, status="pending", task_id="t1", queued_at=NOW)

pytestmark = pytest.mark.django_db
on_postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="the trigger is PostgreSQL's")


def entry(action="requeue", phase="queued", new="", sent=False, by="", at=NOW, run="7", **fields):
    """One row of the ledger."""
    values = {"created_at": at, "kind": "crawl_job", "run_id": run, "phase": phase, "action": action, "reason": "lost"}
    values |= {"new_task_id": new, "published_at": at if sent else None, "actor": by}
    return LedgerEntry.objects.create(**values | fields)


def past(pk="7", adapter=ADAPTER):
    return with_history(adapter, [replace(RUN, pk=pk)])[0].history


SENT = {"sent": True, "new": "t2"}
LATER = NOW + SECOND


@pytest.mark.parametrize(
    ("entries", "history"),
    [
        pytest.param([], History(), id="nothing"),
        pytest.param([SENT], History(redispatches=1, last_action_at=NOW), id="a redispatch"),
        pytest.param([{**SENT, "phase": "running"}], History(requeues=1, last_action_at=NOW), id="a requeue"),
        pytest.param(
            [{**SENT, "phase": "running", "interrupted": True}],
            History(interruptions=1, last_action_at=NOW),
            id="an interruption is no requeue",
        ),
        pytest.param(
            [{**SENT, "interrupted": True}], History(redispatches=1, last_action_at=NOW), id="it had not even started"
        ),
        pytest.param(
            [
                SENT,
                {**SENT, "phase": "running"},
                {**SENT, "phase": "running", "interrupted": True},
                {**SENT, "created_at": LATER},
            ],
            History(requeues=1, redispatches=2, interruptions=1, last_action_at=LATER),
            id="several",
        ),
        pytest.param(
            [{"action": "fail", "phase": "running", "interrupted": True}], History(), id="a fail is no interruption"
        ),
        pytest.param(
            [{**SENT, "phase": "running", "interrupted": True}, {**SENT, "actor": "ada"}],
            History(),
            id="interrupted, then by hand",
        ),
        pytest.param(
            [{"new": "t2"}],
            History(redispatches=1, last_action_at=NOW, unpublished_task_id="t2", unpublished_at=NOW),
            id="unpublished",
        ),
        pytest.param(
            [{"new": "t2"}, SENT], History(redispatches=2, last_action_at=NOW), id="unpublished, but a later one was"
        ),
        pytest.param([{"action": "fail"}], History(), id="a fail is no requeue"),
        pytest.param([{"action": "close"}], History(), id="a close is no requeue"),
        pytest.param(
            [{"new": "t2"}, {"action": "fail"}],
            History(redispatches=1, last_action_at=NOW, unpublished_task_id="t2", unpublished_at=NOW),
            id="a fail changes nothing",
        ),
        pytest.param(
            [SENT, {**SENT, "action": "dispatch", "actor": "manual dispatch"}], History(), id="a dispatch by hand"
        ),
        pytest.param([SENT, {**SENT, "actor": "ada"}], History(), id="a requeue by hand"),
        pytest.param(
            [SENT, {"new": "t3", "actor": "ada"}],
            History(unpublished_task_id="t3", unpublished_at=NOW),
            id="unpublished by hand",
        ),
        pytest.param([SENT, {"action": "fail", "actor": "ada"}], History(), id="a fail by hand"),
        pytest.param(
            [SENT, SENT, {**SENT, "actor": "ada"}, {**SENT, "created_at": LATER}],
            History(redispatches=1, last_action_at=LATER),
            id="counted since the last act by hand",
        ),
    ],
)
def test_the_past_that_these_rows_make(entries, history):
    for each in entries:
        entry(**each)
    assert past() == history


def test_only_a_runs_own_rows_count():
    entry(run="8")
    entry(kind="source_result")
    entry(kind="crawl_job.parent")
    assert past() == History()
    assert past("8").redispatches == 1
    assert past("7", SourceResults()).redispatches == 1


def test_the_past_of_many_runs_is_one_query(django_assert_num_queries):
    for pk in range(20):
        entry(run=str(pk))
    many = [replace(RUN, pk=str(pk)) for pk in range(30)]
    with django_assert_num_queries(1):
        found = with_history(ADAPTER, many)
    assert [run.pk for run in found] == [run.pk for run in many]
    assert sum(run.history.redispatches for run in found) == 20


@pytest.mark.parametrize(
    ("phase", "interrupted", "most"), [("running", False, 3), ("running", True, 10), ("queued", False, 5)]
)
def test_a_run_is_requeued_as_often_as_its_budget_allows_and_then_it_is_poison(phase, interrupted, most):
    run = running(HOUR, started_at=NOW) if phase == "running" else queued(HOUR, task_id="", queued_at=None)
    evidence, policy = replace(DEAD, shutdown_announced=interrupted), replace(REPEATS, backoff=())
    past, fates = History(), []
    while len(fates) < 20 and (not fates or fates[-1].action is Action.REQUEUE):
        fates.append(decide(replace(run, history=past), evidence, policy, NOW + MINUTE))
        row = {"action": fates[-1].action, "phase": run.phase, "interrupted": fates[-1].interrupted}
        past = apply_row(past, {"created_at": NOW, "actor": "", "new_task_id": "t2", "published_at": NOW, **row})
    assert [fate.action for fate in fates] == [Action.REQUEUE] * most + [Action.FAIL]
    assert fates[-1].code == "poison"


@given(any_runs(skew=st.timedeltas(-HOUR, HOUR)), evidences(), POLICIES)
@always
def test_what_a_row_keeps_is_enough_to_decide_again(run, evidence, policy):
    for form in (to_dict, to_compact):
        facts, found = (json.loads(json.dumps(form(each))) for each in (run, evidence))
        again = (facts_from_json(facts), evidence_from_json(found))
        assert [json.loads(to_json(each)) for each in (run, evidence)] == [*map(to_compact, (run, evidence))]
        assert again == (run, evidence)
        assert decide(*again, policy, NOW) == decide(run, evidence, policy, NOW)


def test_a_row_says_everything():
    sweep = Sweep.objects.create(kind="crawl_job", phase="queued", started_at=NOW)
    decision = Decision(Action.REQUEUE, Reason.LOST)
    change = RunUpdate(replace(RUN, task_id=None), decision, "Because.", "t2", Evidence(queue="crawl"))
    record_updates(ADAPTER, [change], NOW, sweep, "ada")
    row = LedgerEntry.objects.get()
    assert (row.sweep, row.created_at, row.kind, row.run_id, row.phase) == (sweep, NOW, "crawl_job", "7", "queued")
    assert (row.task_id, row.new_task_id, row.message, row.actor) == ("", "t2", "Because.", "ada")
    assert (row.action, row.reason, row.published_at, row.owes_revoke) == ("requeue", "lost", None, False)
    assert (row.terminate, row.exhausted, row.interrupted) == (False, False, False)
    assert row.facts == to_compact(change.run)
    assert set(row.facts) == {"kind", "pk", "phase", "status", "task_id", "queued_at"}
    assert row.evidence == {"queue": "crawl"}


def test_each_part_of_a_decision_is_in_its_own_column():
    sweep = Sweep.objects.create(kind="crawl_job", phase="running", started_at=NOW)
    flags = [(True, False, False), (False, True, False), (False, False, True)]
    decisions = [Decision(Action.FAIL, Reason.STALLED, *each) for each in flags]
    record_updates(ADAPTER, [RunUpdate(RUN, each, "") for each in decisions], NOW, sweep, "")
    kept = LedgerEntry.objects.order_by("id").values_list("terminate", "exhausted", "interrupted")
    assert list(kept) == flags


def test_every_row_of_a_batch_keeps_its_own():
    """What differs and what is the same for all is written in different ways."""
    sweep = Sweep.objects.create(kind="crawl_job", phase="queued", started_at=NOW)
    fail, requeue = Decision(Action.FAIL, Reason.STALLED, terminate=True), Decision(Action.REQUEUE, Reason.LOST)
    dead = Evidence(claimant_liveness=Liveness.DEAD, uncertainties=('it\'s 100 %s \\ "doubtful"',))
    changes = [
        RunUpdate(replace(RUN, pk="1", queued_at=None), requeue, "100 %s", "t2"),
        RunUpdate(replace(RUN, pk="2", phase=Phase.RUNNING, task_id=None), fail, "it's\n\\x", "", dead),
        RunUpdate(replace(RUN, pk="3", task_id="", worker='"w"'), fail, "", "", dead),
    ]
    record_updates(ADAPTER, changes, NOW + SECOND, sweep, "ada")
    kept = LedgerEntry.objects.order_by("id")
    assert [(row.run_id, row.phase, row.action, row.terminate) for row in kept] == [
        ("1", "queued", "requeue", False),
        ("2", "running", "fail", True),
        ("3", "queued", "fail", True),
    ]
    assert [(row.task_id, row.new_task_id, row.message) for row in kept] == [
        ("t1", "t2", "100 %s"),
        ("", "", "it's\n\\x"),
        ("", "", ""),
    ]
    assert [row.unattended_seconds for row in kept] == [None, 1.0, 1.0]
    assert [facts_from_json(row.facts) for row in kept] == [change.run for change in changes]
    assert [evidence_from_json(row.evidence) for row in kept] == [change.evidence for change in changes]
    assert {(row.sweep, row.created_at, row.kind, row.actor) for row in kept} == {
        (sweep, NOW + SECOND, "crawl_job", "ada")
    }


def test_rows_that_say_the_same_are_as_many_as_they_are():
    sweep = Sweep.objects.create(kind="crawl_job", phase="queued", started_at=NOW)
    record_updates(ADAPTER, [RunUpdate(RUN, Decision(Action.REQUEUE, Reason.LOST), "")] * 3, NOW, sweep, "")
    assert list(LedgerEntry.objects.values_list("run_id", "action")) == [("7", "requeue")] * 3


def test_a_batch_of_any_size_is_written():
    sweep = Sweep.objects.create(kind="crawl_job", phase="running", started_at=NOW)
    changes = [RunUpdate(replace(RUN, pk=str(pk)), Decision(Action.FAIL, Reason.STALLED), "") for pk in range(1_001)]
    record_updates(ADAPTER, changes, NOW, sweep, "")
    assert sorted(map(int, LedgerEntry.objects.values_list("run_id", flat=True))) == list(range(1_001))


# --- nobody changes it --------------------------------------------------------------------------------------------


@pytest.fixture
def young():
    """A row of this moment, by the database's own clock."""
    sweep = Sweep.objects.create(kind="crawl_job", phase="running", started_at=NOW)
    record_updates(ADAPTER, [RunUpdate(RUN, Decision(Action.REQUEUE, Reason.LOST), "", "new")], now(), sweep, "")
    return LedgerEntry.objects.get()


def now():
    """The database's time, which no test can freeze."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        return cursor.fetchone()[0]


@on_postgresql
@pytest.mark.parametrize(
    "change",
    [
        *({name: "other"} for name in ("kind", "run_id", "phase", "action", "reason", "task_id", "new_task_id")),
        *({name: True} for name in ("exhausted", "interrupted", "terminate")),
        *({name: {"a": 1}} for name in ("facts", "evidence")),
        {"message": "other"},
        {"actor": "other"},
        {"created_at": NOW},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_was_recorded_is_never_changed(young, change):
    before = LedgerEntry.objects.values().get()
    with pytest.raises(IntegrityError, match=f"row {young.pk} cannot be changed"), transaction.atomic():
        LedgerEntry.objects.update(**change)
    assert LedgerEntry.objects.values().get() == before


@on_postgresql
def test_a_dispatch_is_confirmed_once_and_the_confirmation_stays(young):
    confirm_dispatches(ADAPTER, {RUN.pk: "new"}, NOW)
    assert LedgerEntry.objects.get().published_at == NOW
    for later in (None, NOW + SECOND):
        with pytest.raises(IntegrityError, match="cannot be changed"), transaction.atomic():
            LedgerEntry.objects.update(published_at=later)


@on_postgresql
def test_that_an_owner_was_told_is_noted_once_and_stays(young):
    LedgerEntry.objects.update(owner_notified_at=NOW)
    assert LedgerEntry.objects.get().owner_notified_at == NOW
    for later in (None, NOW + SECOND):
        with pytest.raises(IntegrityError, match="cannot be changed"), transaction.atomic():
            LedgerEntry.objects.update(owner_notified_at=later)


@on_postgresql
def test_a_row_outlives_its_sweep_and_belongs_to_no_other(young):
    other = Sweep.objects.create(kind="crawl_job", phase="running", started_at=NOW)
    with pytest.raises(IntegrityError, match="cannot be changed"), transaction.atomic():
        LedgerEntry.objects.update(sweep=other)
    Sweep.objects.all().delete()
    assert LedgerEntry.objects.get().sweep is None


@on_postgresql
def test_a_row_is_deleted_by_its_age_only(young):
    with pytest.raises(IntegrityError, match=f"row {young.pk} is too young to be deleted"), transaction.atomic():
        LedgerEntry.objects.all().delete()
    entry(at=now() - 13 * HOUR)
    LedgerEntry.objects.exclude(pk=young.pk).delete()
    assert LedgerEntry.objects.get() == young


def report(hostname, silent=timedelta(0), **fields):
    """The last report of a worker that has been silent for this long."""
    at = NOW - silent
    values = {"seen_at": at, "listed_at": at, "since": NOW - HOUR, "queues": ["crawl", "default"]}
    return WorkerHeartbeat.objects.create(hostname=hostname, incarnation="abc", **values | fields)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("broker", "limits")
def test_what_a_sweep_wrote_replays():
    report("celery@w1", silent=DEAD_AFTER + SECOND, draining=True)
    report("celery@w2", active={"t2": NOW.timestamp()})
    running_job(MINUTE, heartbeat_at=NOW - 30 * SECOND)
    running_job(2 * HOUR, worker="celery@w2/abc", task_id="t2")
    queued_job(HOUR, task_id="", queued_at=None)
    # The workers are waited for, so time has to pass.
    with freeze_time(NOW, tick=True):
        swept = [sweep(ADAPTER, phase) for phase in (Phase.RUNNING, Phase.QUEUED)]
    assert [row.errors for row in swept] == [[], []]
    rows = list(LedgerEntry.objects.order_by("reason"))
    assert [row.reason for row in rows] == ["never_sent", "orphaned", "timed_out"]
    for row in rows:
        run, evidence = facts_from_json(row.facts), evidence_from_json(row.evidence)
        assert (to_compact(run), to_compact(evidence)) == (row.facts, row.evidence)
        again = decide(run, evidence, conf.policy(ADAPTER), row.created_at)
        assert (again.action, again.reason) == (row.action, row.reason)
        assert (again.terminate, again.exhausted, again.interrupted) == (row.terminate, row.exhausted, row.interrupted)
    assert [row.terminate for row in rows] == [False, False, True]
    assert [evidence_from_json(row.evidence).claimant_liveness for row in rows] == ["unknown", "dead", "alive"]


def test_an_older_row_is_read_as_far_as_it_goes():
    run = replace(RUN, history=History(requeues=1, last_action_at=NOW), skew=SECOND)
    facts = to_dict(run)
    del facts["skew"], facts["history"]["interruptions"]
    assert facts_from_json(facts) == replace(run, skew=timedelta(0))
    assert facts_from_json({**facts, "colour": "red", "skew": 1}) == run
    assert evidence_from_json({"colour": "red", "holder": "celery@w1/abc"}) == Evidence(holder="celery@w1/abc")


@pytest.mark.parametrize(
    "odd",
    [
        {"phase": "asleep", "queued_at": "yesterday", "skew": "long"},
        {"phase": None, "queued_at": 5, "skew": None, "worker": None, "parent_ended": None, "history": None},
        {"phase": 1, "queued_at": {}, "skew": 1e300, "worker": 5, "parent_ended": "no", "history": [1]},
    ],
)
def test_what_cannot_be_read_is_not_known(odd):
    unknown = replace(RUN, phase=Phase.UNKNOWN, queued_at=None)
    assert facts_from_json(to_dict(RUN) | odd) == unknown


@pytest.mark.parametrize("kept", [{}, None, [], "", 5])
def test_a_row_that_keeps_nothing_says_nothing(kept):
    assert facts_from_json(kept) == RunFacts(kind="", pk="", phase=Phase.UNKNOWN)
    assert evidence_from_json(kept) == NO_EVIDENCE


def swept(**fields):
    """A sweep that acted."""
    return Sweep.objects.create(**{"kind": "crawl_job", "phase": "running", "started_at": NOW, "acted": 1} | fields)


def test_what_is_still_to_be_revoked():
    swept(started_at=NOW - HOUR)
    swept(revoked_at=NOW)
    swept(kind="source_result")
    swept(idle=True)
    cut_off, failed = swept(started_at=NOW - HOUR + SECOND), swept(finished_at=NOW)
    assert list(sweeps_owing_revokes(ADAPTER, NOW)) == [cut_off, failed]
    killed = entry(sweep=cut_off, task_id="t1", terminate=True, evidence={"holder": "celery@w1/abc"})
    entry(sweep=cut_off, task_id="t2", evidence={"holder": "celery@w1/abc"})
    entry(sweep=cut_off, task_id="t3", terminate=True, evidence=[])
    entry(sweep=cut_off, task_id="")
    assert owed_revokes(ADAPTER, failed) == []
    doomed = owed_revokes(ADAPTER, cut_off)
    assert [(each.task_id, each.node) for each in doomed] == [("t1", "celery@w1"), ("t2", ""), ("t3", "")]
    assert (killed.owes_revoke, entry(task_id="t1", sweep=swept(revoked_at=NOW)).owes_revoke) == (True, False)
    assert not entry(task_id="t1").owes_revoke


def test_a_confirmation_is_made_once():
    row, other = entry(new="t2"), entry(new="t2", run="8")
    confirm_dispatches(ADAPTER, {"7": "t2"}, NOW)
    confirm_dispatches(ADAPTER, {"7": "t2"}, LATER)
    confirm_dispatches(ADAPTER, {}, NOW)
    row.refresh_from_db()
    other.refresh_from_db()
    assert (row.published_at, other.published_at) == (NOW, None)


def test_a_late_publish_confirms_only_the_dispatch_that_it_repeats():
    older, mine = entry(new="t0"), entry(new="t1")
    others = [entry(new="t1", run="8"), entry(new="t1", kind="source_result"), entry(new="t1", sent=True)]
    confirm_dispatches(ADAPTER, {"7": "t1"}, LATER)
    for row in (older, mine, *others):
        row.refresh_from_db()
    assert [row.published_at for row in (older, mine, *others)] == [None, LATER, None, None, NOW]


def test_rows_of_a_run_newest_first():
    rows = [entry(), entry(action="fail")]
    entry(run="8")
    assert list(entries_of_run(ADAPTER, "7")) == rows[::-1]


@pytest.mark.parametrize(
    ("write", "given"),
    [("progress", [{}]), ("complete", [{}]), ("fail", ["It was slow.", "slow"]), ("release", [1])],
)
def test_a_refused_late_write_is_shown(write, given):
    job = running_job()
    late = claims.Claim(model=CrawlJob, pk=job.pk, task_id="old", worker="celery@w1/abc")
    with pytest.raises(claims.ClaimLost):
        getattr(late, write)(*given)
    refused = RefusedWrite.objects.get()
    assert (refused.kind, refused.run_id, refused.task_id) == ("crawl_job", str(job.pk), "old")
    assert (refused.worker, refused.write) == ("celery@w1/abc", write)


def test_a_dispatch_by_hand_is_noted_with_its_run_or_not_at_all():
    job = queued_job()
    entry(run=str(job.pk))
    task_id = dispatch.assign_task_id(CrawlJob, job.pk, manual=True)
    noted = LedgerEntry.objects.latest("id")
    assert (noted.run_id, noted.action, noted.new_task_id, noted.actor) == (
        str(job.pk),
        "dispatch",
        task_id,
        "manual dispatch",
    )
    assert past(str(job.pk)) == History()
    assert not noted.owes_revoke


def test_a_dispatch_that_is_the_hosts_own_is_not_noted():
    job = queued_job()
    dispatch.assign_task_id(CrawlJob, job.pk, manual=False)
    assert LedgerEntry.objects.count() == 0


@pytest.mark.parametrize(("actor", "reason"), [("", "children_ended"), ("ada", "manual")])
def test_a_finalized_parent_is_noted_apart_from_the_runs(actor, reason):
    sweep = Sweep.objects.create(kind="source_result", phase="parents", started_at=NOW)
    record_finalization(SourceResults(), "7", NOW, sweep, actor)
    row = LedgerEntry.objects.get()
    assert (row.kind, row.run_id, row.action, row.reason) == ("source_result.parent", "7", "finalize", reason)
    assert (row.sweep, row.actor) == (sweep, actor)
    assert past("7", SourceResults()) == History()
