"""What is gathered on a run: every source, how fresh it has to be, and what contradicts it."""

from datetime import timedelta
from time import monotonic
from uuid import uuid4

import pytest
from django.db import connection
from freezegun import freeze_time

from apps.sources.models import CrawlJob
from reaper import tasks
from reaper.broker.connection import Broker
from reaper.broker.queues import QueueSnapshot
from reaper.conf import settings as conf
from reaper.core.facts import NO_EVIDENCE, Liveness, MessageLocation, Phase
from reaper.evidence import collector as evidence
from reaper.evidence.collector import EvidenceCollector
from reaper.models import LedgerEntry, MessageSighting, WorkerHeartbeat
from reaper.sweeps import sweep as sweeps
from reaper.workers import heartbeat as reporter
from reaper.workers import registry as workers
from reaper.workers.inspect import InspectionResult
from reaper.workers.registry import DEAD_AFTER
from tests.reaper.command import reaper
from tests.servers import killed
from tests.worlds import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    executing,
    first_look,
    fresh,
    held_job,
    keep_reporting,
    lost_job,
    orphan,
    queued_job,
    report,
    running_job,
    witness,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "limits")]

WITNESS = "celery@crawl-witness/abc"
WITNESS_NODE, HOLDER_NODE = "celery@crawl-witness", "celery@w1"
MARGIN = timedelta(milliseconds=1)


def sweep(phase, at=NOW):
    with freeze_time(at):
        return sweeps.sweep(conf.adapters()["crawl_job"], phase)


def gather(*rows, at=NOW):
    """The evidence on each of the rows."""
    adapter = conf.adapters()["crawl_job"]
    with freeze_time(at), Broker() as link:
        sources = EvidenceCollector(adapter, link, conf.policy(adapter), at)
        return [found.evidence for found in sources.gather([adapter.get(str(row.pk)) for row in rows])]


@pytest.fixture
def answers(monkeypatch):
    """A function by which the workers' answers to an inquiry are set; those who are asked are noted in `asked`."""

    def answer(**said):
        def inquire(link, task_ids, expected, seconds):
            answer.asked.append((list(task_ids), expected, seconds))
            return InspectionResult(**said)

        monkeypatch.setattr(evidence, "inspect_workers", inquire)

    answer.asked = []
    answer()
    return answer


# --- only when there are suspects, and never for long -------------------------------------------------------------


def test_nobody_is_asked_about_runs_that_cannot_be_lost(refusing_broker, django_assert_num_queries):
    adapter = conf.adapters()["crawl_job"]
    rows = [queued_job(2 * SECOND), queued_job(HOUR, task_id=""), queued_job(created_at=NOW + 9 * HOUR, queued_at=None)]
    runs = [adapter.get(str(row.pk)) for row in rows]
    with Broker() as link, django_assert_num_queries(0):
        found = EvidenceCollector(adapter, link, conf.policy(adapter), NOW).gather(runs)
        assert link.error == ""
    assert [each.evidence for each in found] == [NO_EVIDENCE] * 3


def test_the_reports_are_read_once_for_all_pages_of_running_runs(answers, django_assert_num_queries):
    adapter = conf.adapters()["crawl_job"]
    held_job()
    runs = [adapter.get(str(running_job(MINUTE, worker="celery@unheard/abc").pk)) for _ in range(3)]
    with Broker() as link, freeze_time(NOW):
        sources = EvidenceCollector(adapter, link, conf.policy(adapter), NOW)
        with django_assert_num_queries(1):
            for _ in range(2):
                sources.gather(runs)
    assert answers.asked == []


def test_many_runs_at_once_have_each_its_own_evidence(answers):
    """What is alike is gathered once: nothing that is of one run only may get into another's."""
    report("celery@gone/abc", silent=MINUTE, held=[copy := str(uuid4())])
    others = [running_job(MINUTE, worker="celery@w2/abc") for _ in range(2)]
    executing(others[0], name="celery@w2/abc", since=2 * MINUTE, held=[others[1].task_id])
    rows = [
        *(orphan(), orphan(), held_job(MINUTE), *others, running_job(MINUTE, worker="")),
        *(running_job(MINUTE, worker="celery@unheard/abc") for _ in range(2)),
        *(running_job(MINUTE, worker="", task_id=each) for each in ("", copy)),
        queued_job(MINUTE),
    ]
    alone = [gather(row)[0] for row in rows]
    assert gather(*rows) == alone
    assert gather(*reversed(rows)) == alone[::-1]
    # The same is known of the three whose claimant is not heard of.
    assert len(set(alone)) == len(rows) - 2


def test_of_runs_that_are_alike_only_the_one_whose_retry_waits_returns(monkeypatch, answers):
    monkeypatch.setattr(type(conf.adapters()["crawl_job"]), "keeps_status_while_retrying", True)
    # The last report of their worker names only the last one.
    waits, gone, _ = orphan(), orphan(), orphan()
    look_finds(monkeypatch, waiting={waits.task_id}, depth={"crawl": 1})
    for rows in ([waits, gone], [gone, waits]):
        assert [each.retry_waiting for each in gather(*rows)] == [row is waits for row in rows]


def test_the_workers_are_asked_only_before_a_verdict_by_absence_and_for_all_runs_at_once(answers):
    gone, timed_out, young, held = orphan(), running_job(2 * HOUR), running_job(4 * SECOND), held_job(MINUTE)
    report("celery@draining/abc", draining=True, queues=[])
    gather(gone, timed_out, young, held)
    # The witness and the worker of the held run; one that drains does not answer.
    assert answers.asked == [([gone.task_id], [WITNESS_NODE, HOLDER_NODE], evidence.INSPECT_TIMEOUT_S)]


def test_whoever_has_been_silent_is_not_waited_for_again_in_the_same_sweep(answers):
    pages = [[orphan()] for _ in range(4)]
    held_job(MINUTE)
    adapter = conf.adapters()["crawl_job"]
    with freeze_time(NOW), Broker() as link:
        sources = EvidenceCollector(adapter, link, conf.policy(adapter), NOW)
        for page, answered in zip(pages, ([WITNESS_NODE], [WITNESS_NODE], [], []), strict=True):
            answers(responded_fully=frozenset(answered))
            sources.gather([adapter.get(str(row.pk)) for row in page])
    waits = [(expected, seconds) for _, expected, seconds in answers.asked]
    full, short = evidence.INSPECT_TIMEOUT_S, evidence.SILENT_FLEET_TIMEOUT_S
    assert waits == [([WITNESS_NODE, HOLDER_NODE], full), ([WITNESS_NODE], full), ([WITNESS_NODE], full), ([], short)]


@pytest.mark.live
def test_with_everything_hanging_it_ends_within_five_seconds(hanging_broker):
    rows = [lost_job(), orphan()]
    begin = monotonic()
    found = gather(*rows)
    assert monotonic() - begin < 5
    assert [each.message_location for each in found] == [MessageLocation.UNKNOWN] * 2
    assert not any(each.absent for each in found[1:])
    assert "could not be asked" in found[1].uncertainties[0]


@pytest.mark.live
def test_a_silent_worker_does_not_keep_a_sweep_waiting_and_does_not_protect():
    begin = monotonic()
    (found,) = gather(orphan())
    assert 1 < monotonic() - begin < 4
    assert (found.absent, found.uncertainties) == (True, ())


def test_a_run_that_the_rules_cannot_judge_stops_no_other(monkeypatch):
    bad, good = orphan(), orphan(worker="celery@dead/def")
    decide = evidence.decide

    def fragile(run, *more):
        if run.pk == str(bad.pk):
            raise OverflowError("boom")
        return decide(run, *more)

    monkeypatch.setattr(evidence, "decide", fragile)
    monkeypatch.setattr(sweeps, "decide", fragile)
    row = sweep(Phase.RUNNING)
    assert (row.counts, row.errors) == ({"judging_failed": 1, "orphaned": 1}, [])
    assert (fresh(bad).status, fresh(good).status) == ("running", "failed")


# --- the reports --------------------------------------------------------------------------------------------------


def test_a_healthy_run_is_held_by_the_worker_that_reports_it():
    (found,) = gather(held_job(MINUTE))
    assert (found.holder, found.active_since) == ("celery@w1/abc", NOW - MINUTE)
    assert (found.claimant_liveness, found.claimant_seen_at, found.absent) == (Liveness.ALIVE, NOW, False)


def test_the_worker_that_executes_a_task_is_its_holder_wherever_a_second_copy_is():
    job = running_job(MINUTE)
    for name in ("celery@a/abc", "celery@z/abc"):
        report(name, held=[job.task_id])
    executing(job, name="celery@m/abc")
    report("celery@n/abc", held=[job.task_id])
    (found,) = gather(job)
    assert (found.holder, found.active_since) == ("celery@m/abc", NOW - MINUTE)


@pytest.mark.parametrize(
    ("silent", "claimant", "reaped"),
    [(DEAD_AFTER, Liveness.ALIVE, False), (DEAD_AFTER + SECOND, Liveness.DEAD, True)],
    ids=["at the limit", "beyond"],
)
def test_a_worker_is_dead_when_it_has_been_silent_for_longer_than_the_limit(silent, claimant, reaped):
    job = running_job(MINUTE)
    executing(job, silent=silent)
    witness()
    (found,) = gather(job)
    assert found.claimant_liveness is claimant
    assert bool(sweep(Phase.RUNNING).acted) is reaped


def test_a_run_of_a_worker_that_never_reported_is_not_known():
    job = running_job(MINUTE)
    witness()
    assert gather(job)[0].claimant_liveness is Liveness.UNKNOWN
    assert sweep(Phase.RUNNING).counts == {"inconclusive": 1}


@pytest.mark.parametrize(
    ("watching", "heard", "able"),
    [
        (DEAD_AFTER, 0, True),
        (DEAD_AFTER - SECOND, 0, False),
        (HOUR, 5, True),
        (HOUR, 6, False),
    ],
)
def test_a_witness_has_reported_for_a_whole_silence_limit_and_has_not_missed_a_report(watching, heard, able):
    job = orphan()
    WorkerHeartbeat.objects.filter(hostname="celery@crawl-witness").update(
        since=NOW - watching, seen_at=NOW - heard * SECOND
    )
    assert gather(job)[0].witness == (WITNESS if able else "")
    assert bool(sweep(Phase.RUNNING).acted) is able


def test_when_all_workers_fall_silent_together_none_is_taken_for_dead():
    """A partition: their last reports lie up to an interval and a write's deadline apart."""
    job = running_job(MINUTE)
    last = timedelta(seconds=reporter.INTERVAL + reporter.DEADLINE)
    executing(job, since=MINUTE)
    witness(now=NOW + last)
    for seconds in range(12, 19):
        assert sweep(Phase.RUNNING, NOW + seconds * SECOND).acted == 0
    assert fresh(job).status == "running"


@pytest.mark.parametrize("queues", [["default"], ["reaper"], []])
def test_a_worker_of_another_queue_is_no_witness(queues):
    job = orphan()
    WorkerHeartbeat.objects.filter(hostname="celery@crawl-witness").update(queues=queues)
    assert gather(job)[0].witness == ""
    assert sweep(Phase.RUNNING).acted == 0


@pytest.mark.parametrize(
    "spoilt", [{"complete": False}, {"active": ["no", "dict"]}, {"held": [7]}, {"active": {"t1": None}}], ids=str
)
def test_a_live_report_that_is_not_whole_protects_every_run(spoilt, answers):
    jobs = orphan(), lost_job()
    report("celery@other/abc", **spoilt)
    for found in gather(*jobs):
        assert (found.absent, found.uncertainties) == (False, ("the report of celery@other/abc is not complete",))
    assert sweep(Phase.RUNNING).acted == sweep(Phase.QUEUED).acted == 0
    assert answers.asked == []


def test_the_report_of_a_dead_worker_need_not_be_whole(answers):
    job = orphan()
    report("celery@dead/def", silent=MINUTE, complete=False)
    assert gather(job)[0].absent is True


@pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["behind", "ahead"])
def test_a_workers_clock_that_is_an_hour_off_changes_no_verdict(limits, by):
    limits(RUN_TIMEOUT=10 * MINUTE, ALERT_AFTER=5 * MINUTE)
    there = NOW - by
    healthy = running_job(MINUTE, started_at=there - MINUTE, worker="celery@off/abc")
    report("celery@off/abc", listed_at=there, active={healthy.task_id: (there - MINUTE).timestamp()})
    let_go = running_job(MINUTE, started_at=there - MINUTE, worker="celery@off/abc")
    report("celery@dead/abc", silent=MINUTE, listed_at=there - MINUTE)
    dead = running_job(MINUTE, started_at=there - MINUTE, worker="celery@dead/abc")
    witness()
    assert gather(healthy)[0].active_since == NOW - MINUTE
    assert sweep(Phase.RUNNING).counts == {"in_progress": 1, "orphaned": 2}
    assert {fresh(each).status for each in (let_go, dead)} == {"failed"}


# --- what the workers say themselves ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [orphan, lost_job])
def test_a_worker_that_says_that_it_has_the_task_is_believed(make, answers):
    job = make()
    answers(holding={job.task_id: "celery@w7"}, responded_fully=frozenset({"celery@crawl-witness"}))
    (found,) = gather(job)
    assert (found.holder, found.active_since, found.absent) == ("celery@w7", None, False)
    phase = Phase.RUNNING if make is orphan else Phase.QUEUED
    assert sweep(phase).counts == {"in_progress" if make is orphan else "reserved": 1}


@pytest.mark.parametrize(
    ("said", "doubt"),
    [
        ({"duplicate_nodes": frozenset({"celery@w1"})}, "several workers answer to the name celery@w1"),
        ({"heard": frozenset({"celery@stranger"})}, "celery@stranger answers but does not report"),
        ({"heard": frozenset({"celery@dead"})}, "celery@dead answers but does not report"),
        ({"unread": 2}, "2 answers of workers made no sense"),
        ({"error": "no way"}, "the workers could not be asked: no way"),
    ],
)
@pytest.mark.parametrize("make", [orphan, lost_job])
def test_an_answer_that_cannot_be_relied_on_protects_every_run(make, answers, said, doubt):
    job = make()
    answers(**said)
    (found,) = gather(job)
    assert (found.absent, found.uncertainties) == (False, (doubt,))
    assert sweep(Phase.RUNNING if make is orphan else Phase.QUEUED).counts == {"inconclusive": 1}


# --- the queues ---------------------------------------------------------------------------------------------------


def look_finds(monkeypatch, **found):
    monkeypatch.setattr(evidence, "scan_queues", lambda link, queues, seconds: QueueSnapshot(**found))


@pytest.mark.parametrize(("consumers", "presence"), [(1, MessageLocation.ABSENT), (2, MessageLocation.UNKNOWN)])
def test_where_more_consume_a_queue_than_report_absence_is_not_known(monkeypatch, answers, consumers, presence):
    """RabbitMQ does not show what it has delivered; it says only how many consume."""
    job = lost_job()
    look_finds(monkeypatch, depth={"crawl": 0}, consumers={"crawl": consumers})
    (found,) = gather(job)
    assert found.message_location is presence
    # One that does not answer may not have read what was sent to it.
    assert sweep(Phase.QUEUED).acted == 0
    answers(responded_fully=frozenset({"celery@crawl-witness"}), heard=frozenset({"celery@crawl-witness"}))
    assert bool(sweep(Phase.QUEUED).acted) is (presence is MessageLocation.ABSENT)


def test_a_queue_that_was_not_read_to_its_end_makes_absence_unknown(monkeypatch, answers):
    job = lost_job()
    look_finds(monkeypatch, depth={"crawl": 9}, incomplete_queues=frozenset({"crawl"}), error="too long")
    (found,) = gather(job)
    assert (found.message_location, found.waiting, found.uncertainties) == (MessageLocation.UNKNOWN, 9, ("too long",))
    assert sweep(Phase.QUEUED).acted == 0


def test_the_queues_of_all_reports_are_searched_but_not_the_reapers_own(monkeypatch):
    seen = []

    def note(link, queues, seconds):
        seen.append(set(queues))
        return QueueSnapshot()

    monkeypatch.setattr(evidence, "scan_queues", note)
    report("celery@other/abc", queues=["elsewhere", "reaper"])
    gather(queued_job(MINUTE))
    assert seen == [{"crawl", "elsewhere"}]


def test_the_reports_are_read_anew_after_the_look(monkeypatch, answers):
    """A message that travelled on to a worker during the look would be in neither."""
    job = lost_job()

    def travels(link, queues, seconds):
        report(WITNESS, held=[job.task_id])
        return QueueSnapshot(depth={"crawl": 0})

    monkeypatch.setattr(evidence, "scan_queues", travels)
    assert gather(job)[0].holder == WITNESS


# --- two looks ----------------------------------------------------------------------------------------------------


def test_the_first_look_is_stored_and_the_second_decides():
    job = queued_job(MINUTE)
    witness()
    assert sweep(Phase.QUEUED).counts == {"inconclusive": 1}
    look = MessageSighting.objects.get()
    assert (look.kind, look.run_id, look.task_id) == ("crawl_job", str(job.pk), job.task_id)
    assert (look.message_location, look.created_at) == ("absent", NOW)
    # Nobody was heard since.
    assert sweep(Phase.QUEUED, NOW + 5 * SECOND).counts == {"inconclusive": 1}
    assert MessageSighting.objects.get().created_at == NOW
    keep_reporting(NOW + 6 * SECOND)
    assert sweep(Phase.QUEUED, NOW + 6 * SECOND).counts == {"lost": 1}


def test_every_live_worker_has_to_be_heard_between_the_looks():
    job = lost_job()
    # The look was 10 s ago; lists that were taken before it may have been written for up to the write's deadline.
    report("celery@slow/abc", silent=8 * SECOND)
    assert gather(job)[0].all_reported_since is False
    report("celery@slow/abc", silent=8 * SECOND - MARGIN)
    assert gather(job)[0].all_reported_since is True


@pytest.mark.parametrize("change", ["another task", "another presence"])
def test_a_first_look_at_something_else_is_replaced(change):
    job = queued_job(MINUTE)
    witness()
    first_look(job, presence="delivered" if change == "another presence" else "absent")
    if change == "another task":
        MessageSighting.objects.update(task_id="another")
    (found,) = gather(job)
    assert (found.first_sighting_at, found.all_reported_since) == (None, False)
    assert sweep(Phase.QUEUED).acted == 0
    look = MessageSighting.objects.get()
    assert (look.task_id, look.message_location, look.created_at) == (job.task_id, "absent", NOW)


@pytest.mark.parametrize("where", ["waiting", "held"])
def test_a_first_look_is_forgotten_when_the_task_is_found_again(broker, where, monkeypatch, answers):
    job = lost_job()
    if where == "waiting":
        look_finds(monkeypatch, waiting=frozenset({job.task_id}), depth={"crawl": 1})
    else:
        report("celery@w1/abc", held=[job.task_id])
    assert sweep(Phase.QUEUED).counts == {"backlog" if where == "waiting" else "reserved": 1}
    assert not MessageSighting.objects.exists()


def test_a_message_of_which_nothing_is_known_changes_no_look(monkeypatch, answers):
    job = lost_job()
    before = MessageSighting.objects.values().get()
    look_finds(monkeypatch, depth={"crawl": None}, incomplete_queues=frozenset({"crawl"}), error="down")
    assert sweep(Phase.QUEUED).acted == 0
    assert MessageSighting.objects.values().get() == before
    assert fresh(job).task_id == job.task_id


def test_what_was_delivered_to_a_dead_worker_is_stranded_at_once(monkeypatch, answers):
    jobs = [queued_job(MINUTE) for _ in range(2)]
    look_finds(monkeypatch, unacked=frozenset(job.task_id for job in jobs), depth={"crawl": 0})
    report("celery@dead/abc", silent=MINUTE, held=[jobs[0].task_id])
    witness()
    assert sweep(Phase.QUEUED).counts == {"stranded": 1, "inconclusive": 1}
    assert fresh(jobs[1]).task_id == jobs[1].task_id
    assert MessageSighting.objects.get(run_id=str(jobs[1].pk)).message_location == "delivered"
    keep_reporting(NOW + 3 * SECOND)
    assert sweep(Phase.QUEUED, NOW + 3 * SECOND).counts["stranded"] == 1


@pytest.mark.django_db(transaction=True)
def test_a_dry_run_and_a_diagnosis_take_no_first_look():
    queued_job(MINUTE)
    witness()
    reaper("sweep", "--dry-run")
    reaper("diagnose")
    assert not MessageSighting.objects.exists()
    reaper("sweep")
    assert MessageSighting.objects.count() == 1


def test_sweeps_that_overlap_share_one_first_look():
    """The second has read that there is none, before the first stores its own."""
    adapter = conf.adapters()["crawl_job"]
    queued_job(MINUTE)
    witness()
    with freeze_time(NOW), Broker() as one, Broker() as other:
        both = [EvidenceCollector(adapter, link, conf.policy(adapter), NOW) for link in (one, other)]
        pages = [next(sweeps.plan(adapter, Phase.QUEUED, sources)) for sources in both]
        for page, sources in zip(pages, both, strict=True):
            evidence.store_sightings(adapter, page, sources)
    assert MessageSighting.objects.get().created_at == NOW
    assert not LedgerEntry.objects.exists()


@freeze_time(NOW)
def test_old_first_looks_are_pruned():
    old, kept = queued_job(HOUR), queued_job(HOUR)
    first_look(old, ago=workers.REPORT_RETENTION + SECOND)
    first_look(kept, ago=workers.REPORT_RETENTION)
    tasks.prune_history()
    assert MessageSighting.objects.get().run_id == str(kept.pk)


# --- a task that outlives its run ---------------------------------------------------------------------------------


def test_a_reaped_task_that_a_worker_still_executes_is_killed_there_after_ten_seconds(broker):
    job = running_job(2 * HOUR)
    sweep(Phase.RUNNING)
    broker.revokes()
    for seconds, revokes in ((10, []), (11, [killed([job.task_id], "celery@w4")])):
        at = NOW + seconds * SECOND
        executing(job, name="celery@w4/abc", now=at)
        sweep(Phase.RUNNING, at)
        assert broker.revokes() == revokes
    executing(name="celery@w4/abc", now=NOW + 12 * SECOND)
    sweep(Phase.RUNNING, NOW + 12 * SECOND)
    assert broker.revokes() == []


def test_a_task_that_never_lost_a_run_is_not_killed(broker):
    completed = running_job(2 * HOUR, status="completed")
    executing(completed)
    report("celery@w2/abc", active={"somebody else's": NOW.timestamp()})
    sweep(Phase.RUNNING)
    assert broker.revokes() == []


@pytest.mark.parametrize("status", ["pending", "running"])
def test_a_task_that_a_run_carries_again_is_not_killed(broker, status):
    job = running_job(2 * HOUR)
    sweep(Phase.RUNNING)
    broker.revokes()
    later = NOW + MINUTE
    CrawlJob.objects.filter(pk=job.pk).update(status=status, started_at=later, queued_at=later)
    executing(job, now=later)
    sweep(Phase.RUNNING, later)
    assert broker.revokes() == []


@pytest.mark.skipif(connection.vendor != "postgresql", reason="other databases show no sessions")
def test_a_worker_whose_session_is_gone_is_dead_before_the_silence_limit():
    job = running_job(MINUTE)
    executing(job, silent=9 * SECOND, backend_pid=2**31 - 1)
    witness()
    assert gather(job)[0].claimant_liveness is Liveness.DEAD
    assert sweep(Phase.RUNNING).counts == {"orphaned": 1}
