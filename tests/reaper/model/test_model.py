"""Whatever happens, in whatever order: no finished run changes, each ends once, none is lost, none is wrongly reaped.

Hypothesis makes up the stories: runs are dispatched, messages are taken, lost, copied and late, workers die, fall
silent and come back, people interfere, the broker refuses, and several sweeps go on step by step or die in the middle.
After each step the promises of docs/internals/GUARANTEES-TESTS.md are checked; in the end everything is healed and
drained.
`MODEL_STORIES` says how many are told (`make soak` tells more).
"""

import os
from collections import Counter
from datetime import timedelta
from typing import ClassVar

import pytest
from django.db import connection
from freezegun import freeze_time
from hypothesis import HealthCheck, note, settings
from hypothesis import Phase as Stage
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from apps.sources import dispatch, parents
from apps.sources.models import CrawlJob, CrawlJobSourceResult, Source
from apps.sources.outcomes import outcome
from reaper.broker.connection import Broker
from reaper.conf import settings as conf
from reaper.controls import modes as switches
from reaper.core.decisions import decide
from reaper.core.facts import Phase
from reaper.core.policy import Action, SweepScope
from reaper.core.reasons import ABSENCE_REASONS
from reaper.core.serialization import evidence_from_json, facts_from_json
from reaper.models import (
    Exemption,
    KindControl,
    LedgerEntry,
    MessageSighting,
    RefusedWrite,
    Sweep,
    WorkerHeartbeat,
)
from reaper.sweeps import manual
from reaper.sweeps.parents import finalize_parents
from reaper.sweeps.sweep import sweep
from tests.factories import COMMITTED, NOW, SECOND
from tests.reaper.model.simulated_fleet import QUEUE, SimulatedFleet
from tests.reaper.model.stepped_sweep import SteppedSweep, stepping

pytestmark = [
    COMMITTED,
    pytest.mark.long,
    pytest.mark.timeout(300),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="sweeps at once need connections that do not wait"),
]
STORIES, MOVES = int(os.environ.get("MODEL_STORIES", 25)), 100
TABLES = (
    CrawlJob,
    CrawlJobSourceResult,
    Source,
    LedgerEntry,
    Sweep,
    MessageSighting,
    RefusedWrite,
    KindControl,
)
TABLES += (Exemption, WorkerHeartbeat)
MODELS = {"crawl_job": CrawlJob, "source_result": CrawlJobSourceResult}
ENDED = ("completed", "failed", "cancelled", "skipped")
# Longer than every limit and grace period.
LONG = timedelta(minutes=10)
POLICY = {
    "RUN_TIMEOUT": timedelta(minutes=5),
    "ON_ORPHAN": "requeue",
    "KINDS": {"source_result": {"ON_ORPHAN": "fail"}},
    "MAX_REQUEUES": 1,
    "MAX_ACTIONS": 5,
    "BACKOFF": [5 * SECOND],
}
# How often each must have happened in all stories together; fewer would prove nothing.
MINIMUM_COUNTS = {
    "overlaps": 20, "stale messages": 10, "writes refused": 3, "requeues": 50, "fails": 10, "sweeps killed": 10,
    "moved on": 2, "parents finalized": 2, "manual actions": 3, "zombies": 5,
}  # fmt: skip

# How often each move is made.
WEIGHTS = {
    "jobs": 6, "parent": 6, "message": 4, "broker": 1,
    "take_and_start": 14, "take": 2, "start": 2, "write": 6, "zombie_writes": 2,
    "die_or_be_replaced": 4, "fall_silent_or_come_back": 4,
    "time": 12, "sweep": 3, "sweep_begins": 10, "sweeps_meet": 4, "sweep_goes_on": 18, "sweep_dies": 6,
    "sweep_loses_the_database": 1, "person_acts": 2, "person_cancels": 1, "person_switches": 1,
}  # fmt: skip


class Story(RuleBasedStateMachine):
    """One story: the moves, and the checks after each."""

    frozen: ClassVar = None
    redis: ClassVar = None
    notified: ClassVar[Counter] = Counter()
    current: ClassVar["Story"] = None
    # The ledgers of all stories.
    written: ClassVar[list] = []

    def __init__(self):
        super().__init__()
        with connection.cursor() as cursor:
            cursor.execute(f"TRUNCATE {', '.join(model._meta.db_table for model in TABLES)} CASCADE")
        self.redis.flushall()
        self.now = NOW
        self.frozen.move_to(NOW)
        type(self).current = self
        self.fleet = SimulatedFleet(self.redis, NOW)
        self.sources = [Source.objects.create(name=f"source {number}", url="http://site/") for number in range(3)]
        self.unfinished_sweeps = []
        self.refusing = False
        # Finished runs as they were when they ended; who ended each; a run's requeues since a person dealt with it.
        self.finished = {}
        self.ends = Counter()
        self.requeued = Counter()
        # What sweeps have written to each run.
        self.acted = Counter()

    @rule(chance=st.randoms(use_true_random=True))
    def move(self, chance):
        """One move. Were each a rule, Hypothesis would leave most of them out of a story, and nothing came together."""
        (name,), choice = chance.choices([*WEIGHTS], WEIGHTS.values()), chance.randrange(60)
        note(f"{(self.now - NOW).total_seconds():.0f} s: {name} {choice}")
        getattr(self, name)(choice)

    @invariant()
    def nothing_is_broken(self):
        self.check()

    # --- moves: runs and messages -----------------------------------------------------------------------------

    def jobs(self, choice):
        for number in range(3):
            job = dispatch.create_job(self.sources[0].pk, triggered_by="manual")
            if (choice + number) % 5 and not self.refusing:
                dispatch.dispatch_run(CrawlJob, job.pk)

    def parent(self, choice):
        if not self.refusing:
            parents.create_parent(self.sources[: 1 + choice % 3], triggered_by="manual")

    def message(self, choice):
        (self.fleet.lose, self.fleet.copy, self.fleet.delay, self.fleet.deliver_late)[choice % 4]()

    def broker(self, choice):
        self.refusing = not self.refusing and not choice % 2

    # --- moves: workers ---------------------------------------------------------------------------------------

    def worker(self, choice):
        return self.fleet.workers[choice % 3]

    def take(self, choice):
        worker = self.worker(choice)
        if worker.alive and not self.refusing:
            self.fleet.receive(worker)

    def take_and_start(self, choice):
        self.take(choice)
        self.start(choice)

    def start(self, choice):
        if self.worker(choice).alive:
            self.fleet.start(self.worker(choice))

    def write(self, choice):
        how = ("progress", "progress", "complete", "fail", "release")[choice % 5]
        if self.worker(choice).alive and not (how == "release" and self.refusing):
            self.fleet.write(self.worker(choice), how)

    def die_or_be_replaced(self, choice):
        worker = self.worker(choice)
        (self.fleet.kill if worker.alive else self.fleet.replace)(worker)

    def fall_silent_or_come_back(self, choice):
        worker = self.worker(choice)
        worker.answers = not worker.is_reporting
        (self.fleet.fall_silent if worker.is_reporting else self.fleet.come_back)(worker)

    def zombie_writes(self, choice):
        """A run is taken from a worker that goes on, another one begins with it, and the first one writes to it."""
        if self.refusing:
            return
        for place in range(3):
            self.take_and_start(choice + place)
            zombie, heir = self.worker(choice + place), self.worker(choice + place + 1)
            task_id, (hold, _) = next(iter(zombie.working.items()), (None, (None, None)))
            if task_id and zombie.alive and heir.alive:
                kind = next(kind for kind, model in MODELS.items() if model is hold.model)
                run = conf.adapters()[kind].get(str(hold.pk))
                if run.task_id == task_id and self.hand_over(heir, run, conf.adapters()[kind]):
                    self.notified["zombies"] += 1
                    self.fleet.write(zombie, ("progress", "complete", "fail", "release")[choice % 4])
                    return

    def hand_over(self, heir, run, adapter):
        """Requeue a run manually, and have a worker begin with it before all else; True when it works on it then."""
        manual.act_on_run(adapter, run, Action.REQUEUE, "ada")
        while self.redis.llen(QUEUE):
            self.fleet.receive(heir)
        heir.reserved.reverse()
        self.fleet.start(heir)
        return adapter.get(run.pk).worker == heir.name

    # --- moves: time, sweeps, people --------------------------------------------------------------------------

    def time(self, choice):
        self.pass_time((1, 5, 13, 13, 40, 40)[choice % 6] if choice else 301)

    def sweep(self, choice):
        SteppedSweep(*self.swept(choice)).finish()

    def sweep_begins(self, choice):
        if len(self.unfinished_sweeps) < 3:
            self.keep(SteppedSweep(*self.swept(choice)))

    def sweeps_meet(self, choice):
        """Two sweeps have judged the same runs; they act one after the other, now or whenever they go on."""
        if len(self.unfinished_sweeps) < 2:
            self.pass_time(40)
            both = [SteppedSweep(*self.swept(choice)) for _ in range(2)]
            for each in both:
                self.keep(each)
            while choice % 2 and both:
                sweep = both.pop()
                sweep.finish()
                self.unfinished_sweeps = [each for each in self.unfinished_sweeps if each is not sweep]

    def sweep_goes_on(self, choice, order=""):
        if self.unfinished_sweeps:
            sweep = self.unfinished_sweeps.pop(choice % len(self.unfinished_sweeps))
            sweep.resume(order)
            self.keep(sweep)

    def sweep_dies(self, choice):
        self.notified["sweeps killed"] += bool(self.unfinished_sweeps)
        self.sweep_goes_on(choice, "kill")

    def sweep_loses_the_database(self, choice):
        self.sweep_goes_on(choice, "database")

    def person_acts(self, choice):
        kind, (phase, action) = self.kind(choice), (
            (Phase.RUNNING, Action.FAIL), (Phase.QUEUED, Action.REQUEUE), (Phase.RUNNING, Action.REQUEUE)
        )[choice % 3]  # fmt: skip
        found = [run for page in conf.adapters()[kind].iter_unfinished(phase) for run in page]
        if found:
            run = found[choice % len(found)]
            self.notified["manual actions"] += manual.act_on_run(conf.adapters()[kind], run, action, "ada")[0]

    def person_cancels(self, choice):
        jobs = list(CrawlJob.objects.order_by("created_at").values_list("pk", flat=True))
        if jobs and not self.refusing:
            parents.cancel(jobs[choice % len(jobs)])

    def person_switches(self, choice):
        switches.set_controls(
            conf.adapters()[self.kind(choice)], "ada", self.now, mode=("", "off", "dry_run")[choice % 3]
        )

    # --- what the moves need ----------------------------------------------------------------------------------

    def keep(self, sweep):
        """Remember a sweep for as long as it is under way."""
        if not sweep.ended:
            self.unfinished_sweeps.append(sweep)
            acting = [each for each in self.unfinished_sweeps if each.kind == sweep.kind]
            self.notified["overlaps"] += len(acting) > 1

    def kind(self, choice):
        return ("crawl_job", "source_result")[choice // 6 % 2]

    def swept(self, choice):
        """The adapter and the phase of a sweep."""
        phase = (Phase.RUNNING, Phase.QUEUED, Phase.RUNNING, Phase.QUEUED, SweepScope.PARENTS)[choice // 12]
        return conf.adapters()[self.kind(choice)], phase

    def pass_time(self, seconds):
        self.now += seconds * SECOND
        self.frozen.move_to(self.now)
        self.fleet.pass_time(self.now)

    def committed(self, sweep, changes):
        """Look at what a sweep has just written."""
        for change in changes:
            run, action, reason = change.run, change.decision.action, change.decision.reason
            key = MODELS[run.kind], run.pk
            self.acted[run.kind, run.pk, str(action)] += 1
            if action in (Action.FAIL, Action.CLOSE):
                self.ends[key] += 1
                self.notified["fails"] += 1
            if sweep.actor:
                self.requeued[key] = 0
            elif action is Action.REQUEUE:
                self.requeued[key] += run.phase is Phase.RUNNING
                self.notified["requeues"] += 1
                assert self.requeued[key] <= POLICY["MAX_REQUEUES"], f"{run.pk} is over its budget"
            if reason in ABSENCE_REASONS:
                assert not self.fleet.works_for(run.task_id, sweep.now), f"{run.pk} is worked on: {reason}"

    def check(self):
        """Look at all runs: what has ended is as it was when it ended, and ended once."""
        for model in MODELS.values():
            names = ("status", "completed_at", "error_code", "error_message", "task_id")
            for pk, *values in model.objects.filter(status__in=ENDED).values_list("pk", *names):
                # A parent's message and end come with its outcome, once; it is looked at in the end.
                if model is CrawlJob and CrawlJobSourceResult.objects.filter(crawl_job=pk).exists():
                    continue
                key = model, str(pk)
                before = self.finished.setdefault(key, values)
                assert values == before, f"{key} had ended as {before} and is now {values}"
                assert self.ends[key] + self.fleet.ends[key] <= 1, f"{key} was ended twice"
        acts = (
            LedgerEntry.objects.applied()
            .filter(kind__in=MODELS)
            .exclude(action__in=[LedgerEntry.DISPATCH, LedgerEntry.FINALIZE])
        )
        by_the_ledger = Counter(acts.values_list("kind", "run_id", "action"))
        assert by_the_ledger == self.acted, "the ledger does not say what was done, or says more"
        for kind, pk in acts.filter(action="fail").values_list("kind", "run_id"):
            assert MODELS[kind].objects.get(pk=pk).status == "failed", f"{pk} is in the ledger and not failed"

    # --- the end ----------------------------------------------------------------------------------------------

    def teardown(self):
        """Heal everything, drain, and look whether anything was lost."""
        try:
            self.check()
            self.restore()
            for _ in range(40):
                if not self.drain():
                    break
            self.check_the_end()
        finally:
            for sweep in self.unfinished_sweeps:
                while not sweep.ended:
                    sweep.resume("kill")

    def restore(self):
        """Everything works again; what was late by now is lost."""
        self.refusing = False
        for kind in MODELS:
            switches.set_controls(
                conf.adapters()[kind], "ada", self.now, mode="", released_until=self.now + timedelta(days=9)
            )
        while self.unfinished_sweeps:
            self.unfinished_sweeps.pop().finish()
        for worker in list(self.fleet.workers):
            worker.answers = True
            self.fleet.come_back(worker)
            if not worker.alive:
                self.fleet.replace(worker)

    def drain(self):
        """Have the workers do all that there is, and sweep a while later; return how many runs are left."""
        while self.redis.llen(QUEUE) or any(worker.reserved or worker.working for worker in self.fleet.workers):
            for worker in self.fleet.workers:
                self.fleet.receive(worker)
                self.fleet.start(worker)
                self.fleet.write(worker, "complete")
        for _ in range(2):
            self.pass_time(40)
            self.sweep_all()
        self.check()
        return sum(model.objects.exclude(status__in=ENDED).count() for model in MODELS.values())

    def sweep_all(self):
        """Sweep everything once; return the rows."""
        rows = [
            sweep(adapter, phase) for adapter in conf.adapters().values() for phase in (Phase.RUNNING, Phase.QUEUED)
        ]
        return rows + [finalize_parents(adapter) for adapter in conf.adapters().values()]

    def check_the_end(self):
        """Nothing is left, nothing is to be done, and the records say what happened."""
        for model in MODELS.values():
            left = list(model.objects.exclude(status__in=ENDED).values("pk", "status", "task_id"))
            assert left == [], f"never ended: {left}"
        for parent in CrawlJob.objects.filter(source=None):
            children = list(parent.source_results.values_list("status", flat=True))
            assert parent.finalized_at, f"{parent.pk} was not finalized"
            if parent.status != "cancelled":
                assert (parent.status, parent.error_message) == outcome(children), f"{parent.pk}: {children}"
        for key in [(model, str(pk)) for model in MODELS.values() for pk in model.objects.values_list("pk", flat=True)]:
            assert self.ends[key] + self.fleet.ends[key] <= 1, f"{key} was ended twice"
        self.notified["parents finalized"] += LedgerEntry.objects.applied().filter(action=LedgerEntry.FINALIZE).count()
        again = self.sweep_all()
        assert [(row.acted, row.finalized, row.errors) for row in again] == [(0, 0, [])] * len(again)
        self.written.extend(LedgerEntry.objects.filter(kind__in=MODELS, actor=""))
        self.notified["moved on"] += sum(Sweep.objects.values_list("conflicts", flat=True))
        self.notified += self.fleet.scanned


def replay(rows):
    """What was recorded leads to the same decision once more."""
    for row in rows:
        run, evidence = facts_from_json(row.facts), evidence_from_json(row.evidence)
        decision = decide(run, evidence, conf.policy(conf.adapters()[row.kind]), row.created_at)
        assert decision.action == row.action
        assert decision.reason == row.reason


@pytest.fixture
def world(broker, settings, monkeypatch):
    """The story's clock, broker and policy; its sweeps stop at each step."""
    settings.REAPER = {**settings.REAPER, **POLICY}
    connect, send = Broker._connect, dispatch.send

    def unless_refusing(function):
        def asked(*args, **more):
            if Story.current.refusing:
                raise ConnectionRefusedError("nobody is there")
            return function(*args, **more)

        return asked

    monkeypatch.setattr(Broker, "_connect", unless_refusing(connect))
    monkeypatch.setattr(dispatch, "send", unless_refusing(send))
    monkeypatch.setattr("reaper.evidence.sources.inspect_workers", lambda *args: Story.current.fleet.inspect(*args))
    stepping(monkeypatch, lambda sweep, changes: Story.current.committed(sweep, changes))
    Story.redis, Story.notified, Story.written = broker.client, Counter(), []


def test_interleaved_sweeps_break_no_promise(world):
    profile = settings(
        max_examples=STORIES,
        stateful_step_count=MOVES,
        deadline=None,
        database=None,
        derandomize="MODEL_STORIES" not in os.environ,
        # To make a story short that went wrong takes many more: only where somebody waits for it.
        phases=[Stage.generate, Stage.shrink] if "MODEL_SHRINK" in os.environ else [Stage.generate],
        suppress_health_check=list(HealthCheck),
    )
    with freeze_time(NOW) as Story.frozen:
        run_state_machine_as_test(Story, settings=profile)
    replay(Story.written)
    too_few = {name: Story.notified[name] for name, least in MINIMUM_COUNTS.items() if Story.notified[name] < least}
    assert too_few == {}, f"too little happened: {too_few}"
