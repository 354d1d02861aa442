"""The evidence on a page of runs: what the broker, the workers' reports and the workers themselves say of their tasks.

Asked in the order in which a message travels: first the queues, then the reports, and before a verdict that rests on a
task's absence the workers themselves. Each source is bounded in time, no transaction is open, nothing is written but
first looks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from celery import current_app
from django.db import connections, router

from reaper.adapters import RunAdapter
from reaper.broker.connection import Broker
from reaper.broker.queues import QueueSnapshot, scan_queues
from reaper.conf import clock
from reaper.conf import settings as conf
from reaper.core import brake
from reaper.core.decisions import Decision, decide
from reaper.core.facts import NO_EVIDENCE, Evidence, Liveness, MessageLocation, Phase, RunFacts
from reaper.core.policy import Policy
from reaper.core.reasons import ABSENCE_REASONS
from reaper.models import MessageSighting, WorkerHeartbeat
from reaper.workers.heartbeat import DEADLINE, INTERVAL
from reaper.workers.inspect import InspectionResult, inspect_workers
from reaper.workers.registry import DEAD_AFTER, Worker, load_workers

# Seconds for each of the two that ask the broker: with everything hanging, together below five.
SCAN_TIMEOUT_S, INSPECT_TIMEOUT_S = 2.0, 1.5
# For the next pages of a sweep, once all that were expected have been silent.
SILENT_FLEET_TIMEOUT_S = 0.2
# A worker reports at least this often, its write's own time included.
MAX_REPORT_AGE = timedelta(seconds=INTERVAL + DEADLINE)
# A dispatch commits before it publishes. Only the second look acts, so the first may come early; a later first look
# would find what is lost a whole interval of the sweeps later.
PUBLISH_TIME = timedelta(seconds=2)
MASS_SILENCE_TEXT = "{} of {} workers of queue {} fell silent together, and none has come back since"
SIGHTED_LOCATIONS = (MessageLocation.ABSENT, MessageLocation.DELIVERED)


class HasEvidence(Protocol):
    """Whatever carries a run and the evidence on it."""

    @property
    def run(self) -> RunFacts: ...  # noqa: D102
    @property
    def evidence(self) -> Evidence: ...  # noqa: D102


class Finding(NamedTuple):
    """One run with the evidence on it; the run's `skew` is known now."""

    run: RunFacts
    evidence: Evidence
    # What follows from them, where that has been asked already.
    decision: Decision | None = None


class Fleet:
    """The workers, as their reports show them at one moment, by what is asked of them."""

    def __init__(self, workers: Sequence[Worker], now: datetime) -> None:
        self.now, self.workers = now, workers
        self.silence_by_queue: dict[str, str] = {}
        # The evidence on running runs, by all that it depends on.
        self.shared_evidence: dict[tuple, Evidence] = {}
        self.live = [worker for worker in workers if worker.alive]
        self.by_name = {worker.name: worker for worker in workers}
        self.holder = {task_id: worker for worker in self.live for task_id in worker.held}
        # A second copy of the message may be with another worker: the one that executes the task is its holder.
        self.holder |= {task_id: worker for worker in self.live for task_id in worker.active}
        # Of several dead workers the one that was heard of last.
        dead = sorted((worker for worker in workers if not worker.alive), key=lambda worker: worker.seen_at)
        self.last_holder = {task_id: worker for worker in dead for task_id in worker.held}
        self.queues = {queue for worker in workers for queue in worker.queues}
        self.hostnames = {worker.hostname for worker in self.live}

    @cached_property
    def fleet_watched_since(self) -> datetime | None:
        """Return since when all of them have been reporting without a gap; None when nobody is."""
        return max((worker.since for worker in self.live), default=None)

    def witness(self, queue: str) -> str:
        """Return a worker of the queue that has reported without a gap for a whole silence limit.

        When all were silent it may have been the database or the network, and one that has just come back proves
        nothing of the others: they may be about to. Nor does one that misses a report itself: when all fall silent
        together, the first of them is taken for dead some seconds before the last.
        """
        # guard: a witness has been there for long
        able = (worker for worker in self.live if queue in worker.queues and self.now - worker.since >= DEAD_AFTER)
        # guard: a witness is fresh
        return next((worker.name for worker in able if self.now - worker.seen_at <= MAX_REPORT_AGE), "")

    def silence(self, queue: str) -> str:
        """Return that many workers of a queue fell silent together, and nobody has come since; '' when none did."""
        if queue not in self.silence_by_queue:
            mine = [worker for worker in self.workers if queue in worker.queues]
            # guard: mass silence
            silent = brake.detect_mass_silence(mine, DEAD_AFTER, self.now)
            self.silence_by_queue[queue] = "" if silent is None else MASS_SILENCE_TEXT.format(*silent, queue)
        return self.silence_by_queue[queue]

    @cached_property
    def uncertainties(self) -> tuple[str, ...]:
        """Return why a task that no report names may be held all the same."""
        return tuple(f"the report of {worker.name} is not complete" for worker in self.live if not worker.complete)

    def consumers(self, queue: str) -> set[str]:
        """Return the node names of the live workers that consume a queue."""
        return {worker.hostname for worker in self.live if queue in worker.queues}

    def all_reported_since(self, moment: datetime) -> bool:
        """True when there are live workers and each was heard after the moment."""
        # A report's lists are older than its writing by no more than its deadline.
        return bool(self.live) and all(worker.seen_at - timedelta(seconds=DEADLINE) > moment for worker in self.live)


class EvidenceCollector:
    """What one sweep of one kind asks of the outside. Every question is put once, when it is first needed."""

    def __init__(
        self, adapter: RunAdapter, broker: Broker, policy: Policy, now: datetime, *, may_inspect: bool = True
    ) -> None:
        self.adapter, self.broker, self.policy, self.now = adapter, broker, policy, now
        # Whether the workers are asked themselves, which takes seconds where some are silent: a page only shows.
        self.may_inspect = may_inspect
        # The nodes that have not answered this sweep: they are not waited for again, however many pages it has.
        self.silent: set[str] = set()

    @cached_property
    def queue(self) -> str:
        """Return the queue that the kind's messages go to; '' when Celery's router fails."""
        return queue_of(self.adapter)

    @cached_property
    def fleet(self) -> Fleet:
        """Return what the workers report."""
        using = router.db_for_write(WorkerHeartbeat)
        now = clock.now(using)
        return Fleet(load_workers(using, now), now)

    @cached_property
    def look(self) -> tuple[QueueSnapshot, datetime]:
        """Return what the broker's queues hold, and when that was looked up."""
        queues = {self.queue, *self.fleet.queues} - {conf.QUEUE, ""}
        found = scan_queues(self.broker, queues, SCAN_TIMEOUT_S)
        # A message may have travelled on to a worker meanwhile: reports from before would not have it.
        del self.fleet
        return found, clock.now(self.adapter.using)

    @property
    def silence(self) -> str:
        """Return why nothing is decided by a task's absence now: many workers fell silent together; '' otherwise."""
        return self.fleet.silence(self.queue) if "fleet" in self.__dict__ else ""

    @cached_property
    def latest_started_dispatch(self) -> datetime | None:
        """Return when the newest of the runs that have started was dispatched."""
        return self.adapter.latest_started_dispatch()

    def ask(self, task_ids: Sequence[str]) -> InspectionResult:
        """Return what the workers themselves say."""
        # One that drains does not answer.
        nodes = [worker.hostname for worker in self.fleet.live if not worker.draining]
        expected = [node for node in nodes if node not in self.silent]
        patience = SILENT_FLEET_TIMEOUT_S if self.silent and not expected else INSPECT_TIMEOUT_S
        answer = inspect_workers(self.broker, task_ids, expected, patience)
        self.silent |= set(expected) - answer.responded_fully
        return answer

    def gather(self, runs: Sequence[RunFacts]) -> list[Finding]:
        """Return the runs, in their order, with the evidence on each."""
        queued = [run for run in runs if run.phase is Phase.QUEUED and self.is_past_publish(run)]
        running = [run for run in runs if run.phase is Phase.RUNNING]
        found = {run.pk: Finding(run, NO_EVIDENCE) for run in runs}
        known = [*self.collect_queued(queued), *map(self.collect_running, running)]
        found |= {each.run.pk: self.with_tentative_decision(each) for each in known}
        doubtful = [each for each in found.values() if each.decision and each.decision.reason in ABSENCE_REASONS]
        if doubtful and self.may_inspect:
            answer = self.ask([each.run.task_id for each in doubtful if each.run.task_id])
            doubts = self.uncertainties_in(answer)
            found |= {each.run.pk: self.merge_inspection(each, answer, doubts) for each in doubtful}
        return [found[run.pk] for run in runs]

    def is_past_publish(self, run: RunFacts) -> bool:
        """True for a run that was dispatched longer ago than a message takes to be published."""
        age = run.age(self.now)
        return bool(run.task_id) and age is not None and age > PUBLISH_TIME

    def with_tentative_decision(self, found: Finding) -> Finding:
        """Return it with the decision that would follow, where that may rest on the task's absence."""
        if not found.evidence.absent:
            return found
        try:
            return found._replace(decision=decide(found.run, found.evidence, self.policy, self.now))
        except Exception:  # judged again, and told, where it stops no other run
            return found

    def collect_running(self, run: RunFacts) -> Finding:
        """Return the evidence on a run that has started."""
        # Looked at first, as a message travels.
        waiting = self.look[0].waiting if self.adapter.keeps_status_while_retrying else ()
        crowd, task_id = self.fleet, run.task_id or ""
        claimant = crowd.by_name.get(run.worker)
        holder, dead = crowd.holder.get(task_id), crowd.last_holder.get(task_id)
        if claimant is not None and claimant.skew != run.skew:
            run = replace(run, skew=claimant.skew)
        returns = bool(task_id) and holder is None and task_id in waiting
        # Of the thousands that one worker held when it died, all is the same.
        names = holder.name if holder else "", dead.name if dead else ""
        alike = (run.worker, bool(task_id), *names, task_started_at(holder, task_id) if holder else None, returns)
        if alike not in crowd.shared_evidence:
            known = self.collect_from_reports(run)
            if claimant is not None:
                known["claimant_liveness"] = Liveness.ALIVE if claimant.alive else Liveness.DEAD
                known["claimant_seen_at"], known["claimant_listed_at"] = claimant.seen_at, claimant.listed_at
            # Also of one that is still there: its tasks are cut off before it has ended.
            last = claimant or crowd.by_name.get(known["last_holder"])
            known["shutdown_announced"] = last is not None and last.draining
            crowd.shared_evidence[alike] = Evidence(**known, retry_waiting=returns)
        return Finding(run, crowd.shared_evidence[alike])

    def collect_queued(self, runs: Sequence[RunFacts]) -> list[Finding]:
        """Return the evidence on runs that wait."""
        if not runs:
            return []
        seen, _ = self.look
        first = load_sightings(self.adapter, runs)
        return [Finding(run, self.of_message(run, seen, first.get(run.pk))) for run in runs]

    def of_message(self, run: RunFacts, seen: QueueSnapshot, first: MessageSighting | None) -> Evidence:
        """Return the evidence on one run that waits."""
        presence, doubts = self.message_location(run.task_id or "", seen)
        known = self.collect_from_reports(run)
        same = first is not None and (first.task_id, first.message_location) == (run.task_id, presence)
        return Evidence(
            **known
            | {
                "message_location": presence,
                "waiting": seen.depth.get(self.queue),
                "first_sighting_at": first.created_at if first and same else None,
                "all_reported_since": bool(first and same and self.fleet.all_reported_since(first.created_at)),
                "overtaken": presence is MessageLocation.UNKNOWN and not known["holder"] and self.was_overtaken(run),
                "uncertainties": (*known["uncertainties"], *doubts),
            }
        )

    def message_location(self, task_id: str, seen: QueueSnapshot) -> tuple[MessageLocation, list[str]]:
        """Return where the message is, and why that is not known."""
        if task_id in seen.waiting:
            return MessageLocation.WAITING, []
        if task_id in seen.unacked:
            return MessageLocation.DELIVERED, []
        if not seen.absent(task_id, list(seen.depth)):
            return MessageLocation.UNKNOWN, [seen.error] if seen.error else []
        for queue, consumers in seen.consumers.items():
            # One that does not report may have been handed the message.
            # guard: more consumers than reports
            if consumers is not None and consumers > len(self.fleet.consumers(queue)):
                return MessageLocation.UNKNOWN, [f"queue {queue} has {consumers} consumers, not all of which report"]
        return MessageLocation.ABSENT, []

    def was_overtaken(self, run: RunFacts) -> bool:
        """True when a run that was dispatched later by a whole queue timeout has started."""
        age, since = run.age(self.now), run.phase_since(self.now)
        if age is None or since is None or age <= self.policy.queue_timeout or self.latest_started_dispatch is None:
            return False
        return self.latest_started_dispatch - since >= self.policy.queue_timeout

    def collect_from_reports(self, run: RunFacts) -> dict[str, Any]:
        """Return what the reports say of one run's task, by the names in `Evidence`."""
        task_id, crowd = run.task_id or "", self.fleet
        holder, silence = crowd.holder.get(task_id), crowd.silence(self.queue)
        dead = None if holder else crowd.last_holder.get(task_id)
        return {
            "holder": holder.name if holder else "",
            "active_since": task_started_at(holder, task_id) if holder else None,
            # guard: a report that is not whole
            "absent": bool(task_id) and holder is None and not crowd.uncertainties and not silence,
            "witness": crowd.witness(self.queue),
            "fleet_watched_since": crowd.fleet_watched_since,
            "last_holder": dead.name if dead else "",
            "queue": self.queue,
            "uncertainties": (*crowd.uncertainties, silence) if silence else crowd.uncertainties,
        }

    def merge_inspection(self, found: Finding, answer: InspectionResult, doubts: Sequence[str]) -> Finding:
        """Return the evidence with the workers' own answer: one says that it has the task, or something is doubtful."""
        run, evidence, _ = found
        node = answer.holding.get(run.task_id or "", "")
        if run.phase is Phase.QUEUED and self.look[0].consumers.get(self.queue) is not None:
            # RabbitMQ does not show what it has delivered, and a worker too busy to answer may not have read it.
            silent = self.fleet.consumers(self.queue) - answer.responded_fully
            unread = (f"{node} did not answer, and may have been sent the message" for node in sorted(silent))
            doubts = [*doubts, *unread]
        # guard: a doubt about the answer
        if not node and not doubts:
            return found
        return Finding(
            run,
            replace(
                evidence,
                holder=node,
                active_since=self.now if run.task_id in answer.active else None,
                absent=False,
                uncertainties=(*evidence.uncertainties, *doubts),
            ),
        )

    def uncertainties_in(self, answer: InspectionResult) -> list[str]:
        """Return why a task that nobody named may be held all the same."""
        doubts = [f"the workers could not be asked: {answer.error}"] if answer.error else []
        doubts += [f"several workers answer to the name {node}" for node in sorted(answer.duplicate_nodes)]
        strangers = sorted(answer.heard - self.fleet.hostnames)
        doubts += [f"{node} answers but does not report" for node in strangers]
        return doubts + [f"{answer.unread} answers of workers made no sense"] * bool(answer.unread)


def queue_of(adapter: RunAdapter) -> str:
    """Return the queue that a kind's messages go to; '' when Celery's router fails."""
    if adapter.queue:
        return adapter.queue
    try:
        return current_app.amqp.router.route({}, adapter.task)["queue"].name
    except Exception:  # the router runs the host's code
        return ""


def task_started_at(worker: Worker, task_id: str) -> datetime | None:
    """Return when a worker began a task, in the database's time; None when it only keeps it."""
    try:
        return datetime.fromtimestamp(worker.active[task_id], UTC) + worker.skew
    except KeyError:
        return None
    except (ValueError, OverflowError, OSError):
        return worker.seen_at


def load_sightings(adapter: RunAdapter, runs: Iterable[RunFacts]) -> dict[str, MessageSighting]:
    """Return the stored first looks, by run."""
    rows = MessageSighting.objects.using(adapter.using).filter(kind=adapter.kind, run_id__in=[run.pk for run in runs])
    return {row.run_id: row for row in rows}


def store_sightings(adapter: RunAdapter, judged: Iterable[HasEvidence], sources: EvidenceCollector) -> None:
    """Store the first look at each run whose message is not waiting; forget those whose message was found again."""
    looked = [each for each in judged if each.run.phase is Phase.QUEUED and each.evidence is not NO_EVIDENCE]
    if not looked:
        return
    at, rows = sources.look[1], MessageSighting.objects.using(adapter.using)
    new = [
        MessageSighting(
            kind=adapter.kind,
            run_id=each.run.pk,
            task_id=each.run.task_id or "",
            message_location=each.evidence.message_location,
            created_at=at,
        )
        for each in looked
        if each.evidence.message_location in SIGHTED_LOCATIONS
        and not each.evidence.holder
        and each.evidence.first_sighting_at is None
    ]
    # MySQL finds out by itself which constraint is in the way, and refuses to be told.
    targeted = connections[adapter.using].features.supports_update_conflicts_with_target
    target = ["kind", "run_id"] if targeted else None
    changes = ["task_id", "message_location", "created_at"]
    rows.bulk_create(new, update_conflicts=True, unique_fields=target, update_fields=changes)
    found = [
        each.run.pk
        for each in looked
        if each.evidence.holder or each.evidence.message_location is MessageLocation.WAITING
    ]
    rows.filter(kind=adapter.kind, run_id__in=found).delete()
