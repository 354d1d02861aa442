"""Observe the reaper's effects: the host's rows, the tasks' journal, their processes, and the messages in Redis.

The reaper's ledger is read only for display; it is not used as evidence.
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from celery import current_app
from kombu import Connection

from apps.sources.models import CrawlJob, CrawlJobSourceResult
from reaper.models import LedgerEntry
from tools import wrong_reaps
from tools.journal import Event, Journal

POLL_SECONDS = 0.15
# How long something that should happen soon may take on a busy machine.
TIMEOUT_SECONDS = 30
QUEUES = ("crawl", "default")


class TimedOut(Exception):
    """Something did not happen in time; the message names it."""


class Watch:
    """Polls the service's state, judges every change, and waits for conditions."""

    def __init__(self, journal: Path, *, end: float, check: Callable[[], None]) -> None:
        self.end = end
        self.journal: list[Event] = []
        # Tasks whose messages were delivered to a worker that has died since: no worker will start them.
        self.undeliverable: set[str] = set()
        self.wrong: dict[tuple[str, str], wrong_reaps.WrongReap] = {}
        self.on_observation: Callable[[], None] = lambda: None
        self.on_reaping: Callable[[LedgerEntry], None] = lambda reaping: None
        self.on_wrong: Callable[[wrong_reaps.WrongReap], None] = lambda wrong: None
        self._check = check
        self._journal = Journal(journal)
        self._births: dict[int, float] = {}
        self._last_reaping = 0
        self._broker = Broker()
        self.latest = wrong_reaps.Observation(at=time.time())

    def until(self, happened: Callable[[], object], *, missing: str, timeout: float = TIMEOUT_SECONDS) -> None:
        """Poll until the condition holds. Raise `TimedOut` with `missing` as its message after `timeout` seconds."""
        end = min(time.time() + timeout, self.end)
        while not happened():
            if time.time() > end:
                raise TimedOut(missing)
            self._check()
            time.sleep(POLL_SECONDS)
            self.observe()

    def observe(self) -> None:
        """Take one observation, judge the changes since the last one, and report new ledger entries to `on_reaping`."""
        before, rows = self.latest, read_rows()
        self.read_journal()
        self.latest = wrong_reaps.Observation(
            time.time(), rows, self._alive(), self._broker.waiting() - self.undeliverable
        )
        for wrong in wrong_reaps.taken_alive(before, self.latest, self.journal):
            self._note(wrong)
        for reaping in LedgerEntry.objects.applied().filter(pk__gt=self._last_reaping).order_by("pk"):
            self._last_reaping = reaping.pk
            self.on_reaping(reaping)
        self.on_observation()

    def final_judgement(self) -> int:
        """Return how many runs were wrongly reaped. Call it when no task can write to the journal any more."""
        self.read_journal()
        for wrong in wrong_reaps.refused(self.journal):
            self._note(wrong)
        return len(self.wrong)

    def run(self, pk: str) -> wrong_reaps.Run:
        """Return a run's row at the latest observation."""
        return self.latest.runs.get(pk, wrong_reaps.Run("not observed yet"))

    def is_alive(self, pk: str) -> bool:
        """Return whether the process that last claimed the run was alive at the latest observation."""
        claims = [event.pid for event in self.journal if event.event == "claimed" and event.run == pk]
        return bool(claims) and claims[-1] in self.latest.alive

    def delete_message(self, task_id: str) -> None:
        """Delete a task's message from Redis. Raises `TimedOut` when it is not there."""
        if not self._broker.delete(task_id):
            raise TimedOut(f"the message of task {task_id} is not in Redis")

    def close(self) -> None:
        """Close the connection to the broker."""
        self._broker.close()

    def read_journal(self) -> None:
        """Read what the tasks have written since the last time."""
        self.journal += self._journal.read_new()

    def _note(self, wrong: wrong_reaps.WrongReap) -> None:
        if (wrong.run, wrong.task_id) not in self.wrong:
            self.wrong[wrong.run, wrong.task_id] = wrong
            self.on_wrong(wrong)

    def _alive(self) -> frozenset[int]:
        """Return the live processes that have claimed runs; a reused pid counts as another process."""
        alive = set()
        for pid in {event.pid for event in self.journal if event.event == "claimed"}:
            try:
                process = psutil.Process(pid)
                born, gone = process.create_time(), process.status() == psutil.STATUS_ZOMBIE
            except psutil.NoSuchProcess:
                continue
            if not gone and self._births.setdefault(pid, born) == born:
                alive.add(pid)
        return frozenset(alive)


class Broker:
    """Redis, read without Celery: its lists hold the waiting messages, `unacked` the prefetched ones."""

    def __init__(self) -> None:
        self._connection: Connection = current_app.connection_for_read()
        self._redis = self._connection.default_channel.client

    def waiting(self) -> frozenset[str]:
        """Return the ids of the tasks that have not been started."""
        # In the order in which a message travels, so that none is missed.
        ids = [task_id for _, _, task_id in self._messages()]
        ids += [task_of(json.loads(raw)[0]) for raw in self._redis.hvals("unacked")]
        return frozenset(ids)

    def delete(self, task_id: str) -> int:
        """Delete a task's message; return how many there were."""
        return sum(self._redis.lrem(queue, 1, raw) for queue, raw, mine in self._messages() if mine == task_id)

    def close(self) -> None:
        """Release the connection."""
        self._connection.release()

    def _messages(self) -> Iterator[tuple[str, bytes, str]]:
        for queue in QUEUES:
            for raw in self._redis.lrange(queue, 0, -1):
                yield queue, raw, task_of(json.loads(raw))


def task_of(message: dict) -> str:
    """Return the task id of a message."""
    return message["headers"]["id"]


def read_rows() -> dict[str, wrong_reaps.Run]:
    """Read the host's rows: children before jobs, so that a finalized parent never appears with older children."""
    common = ("id", "status", "task_id", "worker", "pages_crawled")
    rows = {str(pk): wrong_reaps.Run(*row) for pk, *row in CrawlJobSourceResult.objects.values_list(*common)}
    for pk, *row, finalized_at in CrawlJob.objects.values_list(*common, "finalized_at"):
        rows[str(pk)] = wrong_reaps.Run(*row, finalized_at is not None)
    return rows
