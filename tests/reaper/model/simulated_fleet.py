"""Workers whose every move is made from outside: they take real messages, and write through the real fence."""

import base64
import json
from collections import Counter
from datetime import timedelta
from itertools import count

from apps.sources import claims
from apps.sources.models import CrawlJob, CrawlJobSourceResult
from reaper.models import WorkerHeartbeat
from reaper.workers.inspect import InspectionResult
from reaper.workers.timing import DEAD_AFTER

QUEUE = "crawl"
NAMES = ("w1", "w2", "w3")


class Worker:
    """A worker from its start to its end."""

    def __init__(self, name, incarnation, now):
        self.name, self.hostname, self.incarnation = f"celery@{name}/{incarnation}", f"celery@{name}", incarnation
        self.since, self.alive, self.is_reporting, self.answers = now, True, True, True
        # The messages it has reserved, as (task id, model, key), and the tasks it executes.
        self.reserved, self.working = [], {}

    def report(self, now):
        """Write a heartbeat as a real worker does."""
        fields = {
            "seen_at": now,
            "listed_at": now,
            "since": self.since,
            "active": {task_id: began.timestamp() for task_id, (_, began) in self.working.items()},
            "held": [task_id for task_id, *_ in self.reserved],
            "queues": [QUEUE],
            "ended_at": None,
        }
        key = {"hostname": self.hostname, "incarnation": self.incarnation}
        WorkerHeartbeat.objects.update_or_create(**key, defaults=fields)


class SimulatedFleet:
    """The simulated workers, the delayed messages, and counts of what happened."""

    def __init__(self, redis, now):
        self.redis, self.now, self.incarnations = redis, now, count()
        # Messages that neither the broker nor a worker has.
        self.late = []
        self.scanned = Counter()
        # How often workers ended each run, by (model, key).
        self.ends = Counter()
        self.workers = [Worker(name, next(self.incarnations), now - timedelta(hours=1)) for name in NAMES]
        self.report()

    def report(self):
        """Write the heartbeats of all live workers that are not silent."""
        for worker in self.workers:
            if worker.alive and worker.is_reporting:
                worker.report(self.now)

    def pass_time(self, now):
        """Time has passed, in which all who can be heard have reported without a gap."""
        self.now = now
        self.report()

    # --- messages ---------------------------------------------------------------------------------------------

    def receive(self, worker):
        """A worker takes the oldest message, which is gone from the broker then."""
        if raw := self.redis.rpop(QUEUE):
            worker.reserved.append(read(raw))

    def lose(self):
        """The oldest message is lost."""
        self.scanned["messages lost"] += bool(self.redis.rpop(QUEUE))

    def copy(self):
        """The oldest message is there twice."""
        if raw := self.redis.lindex(QUEUE, -1):
            self.redis.lpush(QUEUE, raw)
            self.scanned["messages copied"] += 1

    def delay(self):
        """The oldest message is nowhere for a while."""
        if raw := self.redis.rpop(QUEUE):
            self.late.append(raw)

    def deliver_late(self):
        """A message that was nowhere comes after all."""
        if self.late:
            self.redis.lpush(QUEUE, self.late.pop(0))
            self.scanned["messages late"] += 1

    # --- work -------------------------------------------------------------------------------------------------

    def start(self, worker):
        """A worker begins with the first message that it has."""
        if not worker.reserved:
            return
        task_id, model, pk = worker.reserved.pop(0)
        row = current_row(model, pk)
        try:
            hold = claims.claim(model, pk, task_id, worker.name)
        except claims.ClaimLost:
            self.scanned["stale messages"] += 1
        else:
            assert row == ("pending", task_id), f"{task_id} began with {pk}, which was {row}"
            worker.working[task_id] = (hold, self.now)

    def write(self, worker, how):
        """A worker writes to the oldest of its runs: `progress`, `complete`, `fail` or `release`."""
        if not worker.working:
            return
        task_id, (hold, _) = next(iter(worker.working.items()))
        arguments = {
            "progress": [{"pages": 1}],
            "complete": [{"pages": 2}],
            "fail": ["broken", "error"],
            "release": [1],
        }
        if how != "progress":
            del worker.working[task_id]
        row = current_row(hold.model, hold.pk)
        try:
            getattr(hold, how)(*arguments[how])
        except claims.ClaimLost:
            worker.working.pop(task_id, None)
            self.scanned["writes refused"] += 1
        else:
            assert row == ("running", task_id), f"{how} by {task_id} of {hold.pk}, which was {row}"
            self.ends[hold.model, str(hold.pk)] += how in ("complete", "fail")

    # --- life and death ---------------------------------------------------------------------------------------

    def kill(self, worker):
        """A worker dies; what it held dies with it."""
        worker.alive = False
        worker.reserved, worker.working = [], {}
        self.scanned["workers killed"] += 1

    def replace(self, worker):
        """Another worker comes in the place of a dead one."""
        name = worker.hostname.partition("@")[2]
        self.workers[self.workers.index(worker)] = Worker(name, next(self.incarnations), self.now)

    def fall_silent(self, worker):
        """A worker goes on working, and its reports do not arrive: it will be a zombie."""
        worker.is_reporting = False

    def come_back(self, worker):
        """It is heard again."""
        if not worker.is_reporting:
            worker.is_reporting, worker.since = True, self.now

    def inspect(self, broker, task_ids, expected, seconds):
        """Answer in the place of `reaper.workers.inspect.inspect_workers`: all who live and answer at all."""
        asked = [each for each in self.workers if each.alive and each.answers]
        holding = {task_id: each.hostname for each in asked for task_id, *_ in each.reserved}
        active = {task_id: each.hostname for each in asked for task_id in each.working}
        nodes = frozenset(each.hostname for each in asked)
        return InspectionResult({**holding, **active}, active, nodes, nodes)

    def works_for(self, task_id, since):
        """Whether a worker works on the task that was alive and heard without a gap for a silence limit before then."""
        there = [each for each in self.workers if each.alive and each.is_reporting and each.since <= since - DEAD_AFTER]
        return any(task_id in each.working and each.working[task_id][1] <= since for each in there)


def current_row(model, pk):
    """A run's status and task."""
    return model.objects.values_list("status", "task_id").get(pk=pk)


def read(raw):
    """A message as (task id, model, key)."""
    message = json.loads(raw)
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    if "crawl_job_id" in kwargs:
        return message["headers"]["id"], CrawlJob, kwargs["crawl_job_id"]
    child = CrawlJobSourceResult.objects.get(crawl_job=kwargs["parent_job_id"], source=args[0])
    return message["headers"]["id"], CrawlJobSourceResult, str(child.pk)
