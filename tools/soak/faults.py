"""What is done to the service: each fault is one function, which returns whether there was anything to be done to."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
from django.db import connection

from tools import commands
from tools.processes import ProcessGroup
from tools.soak.judge import Stop

CRAWLERS, REAPERS, BEATS = ("crawl1", "crawl2", "crawl3"), ("reaper1", "reaper2"), ("beat1", "beat2")
QUEUE = "crawl"
# Seconds: long enough to be taken for dead, and short enough to come back while its runs are done anew.
STOPPED = (14, 25)


def command(name: str) -> list[str]:
    """Return the command of one of the processes."""
    if name in CRAWLERS:
        return commands.crawler(name)
    return commands.reaper(name) if name in REAPERS else commands.beat()


class Faults:
    """The service, and the ways to hurt it."""

    def __init__(self, processes: ProcessGroup, redis: Any, chance: random.Random) -> None:
        self.processes, self.redis, self.chance = processes, redis, chance
        self.stops: list[Stop] = []
        # Who is stopped, since when and until when; who is missing, until when.
        self.stopped: dict[str, tuple[float, float]] = {}
        self.missing: dict[str, float] = {}
        self.done: dict[str, int] = {}
        self.deck: list[Callable[[Faults], bool]] = []

    def strike(self) -> str:
        """Let one fault happen, by chance but each in its turn; return its name."""
        while True:
            if not self.deck:
                self.deck = self.chance.sample(ALL, len(ALL))
            fault = self.deck.pop()
            if fault(self):
                name = fault.__name__.replace("_", " ")
                self.done[name] = self.done.get(name, 0) + 1
                return name

    def tend(self) -> None:
        """Start again what is missing or has ended, and let those go on that were stopped for long enough."""
        for name, (_, end) in list(self.stopped.items()):
            if time.time() >= end:
                self.go_on(name)
        for name in self.processes.died():
            self.processes.processes.pop(name)
            self.missing.setdefault(name, 0)
        for name, end in list(self.missing.items()):
            if time.time() >= end:
                del self.missing[name]
                self.processes.start(name, command(name))

    def heal(self) -> None:
        """Let everything go on that was hurt."""
        self.stopped = {name: (began, 0) for name, (began, _) in self.stopped.items()}
        self.missing = dict.fromkeys(self.missing, 0.0)
        self.tend()

    def go_on(self, name: str) -> None:
        """Let a stopped process and its children go on, and note how long they did nothing."""
        began, _ = self.stopped.pop(name)
        for process in self.group(name):
            self.stops.append(Stop(process.pid, began, time.time()))
            process.send_signal(signal.SIGCONT)

    def group(self, name: str) -> Iterator[psutil.Process]:
        """Yield a process and its children."""
        main = psutil.Process(self.processes.processes[name].pid)
        yield from (main, *main.children(recursive=True))

    def one_of(self, names: tuple[str, ...]) -> str:
        """Return one of the processes that is there and goes on; '' when none is."""
        there = [name for name in names if name in self.processes.processes and name not in self.stopped]
        return self.chance.choice([name for name in there if name not in self.processes.died()] or [""])


def kill_a_crawl_worker(faults: Faults) -> bool:
    """Kill a worker and its pool."""
    return kill(faults, CRAWLERS)


def kill_a_reaper(faults: Faults) -> bool:
    """Kill a reaper's worker, wherever its sweep is."""
    return kill(faults, REAPERS)


def kill_a_beat(faults: Faults) -> bool:
    """Kill a scheduler."""
    return kill(faults, BEATS)


def kill(faults: Faults, names: tuple[str, ...]) -> bool:
    """Kill one of these; it comes back after a while."""
    if name := faults.one_of(names):
        faults.processes.kill(name)
        faults.missing[name] = time.time() + faults.chance.uniform(0, 8)
    return bool(name)


def deploy_a_crawl_worker(faults: Faults) -> bool:
    """Ask a worker to end, as a deploy does; it has five seconds for what it is at."""
    if name := faults.one_of(CRAWLERS):
        os.kill(faults.processes.processes[name].pid, signal.SIGTERM)
        faults.missing[name] = time.time() + 5
    return bool(name)


def kill_a_pool_process(faults: Faults) -> bool:
    """Kill one child of a worker, as the kernel does without memory."""
    children = [child for name in [faults.one_of(CRAWLERS)] if name for child in [*faults.group(name)][1:]]
    if children:
        faults.chance.choice(children).kill()
    return bool(children)


def stop_a_crawl_worker(faults: Faults) -> bool:
    """Stop a worker for so long that it is taken for dead: then it comes back, and knows nothing of it."""
    name = faults.one_of(CRAWLERS)
    if not name or len(faults.stopped) > 1:
        return False
    for process in faults.group(name):
        process.suspend()
    faults.stopped[name] = (time.time(), time.time() + faults.chance.uniform(*STOPPED))
    return True


def lose_a_message(faults: Faults) -> bool:
    """Delete the next message."""
    return bool(faults.redis.rpop(QUEUE))


def copy_a_message(faults: Faults) -> bool:
    """Deliver the next message twice."""
    raw = faults.redis.lindex(QUEUE, -1)
    return bool(raw and faults.redis.lpush(QUEUE, raw))


def empty_the_queue(faults: Faults) -> bool:
    """Lose all messages at once."""
    return bool(faults.redis.delete(QUEUE))


def cut_the_broker_off(faults: Faults) -> bool:
    """End every connection to the broker."""
    return bool(faults.redis.client_kill_filter(_type="normal", skipme=True))


def hang_the_broker(faults: Faults) -> bool:
    """Have the broker answer nobody for three seconds."""
    faults.redis.execute_command("CLIENT", "PAUSE", 3000)
    return True


def cut_the_database_off(faults: Faults) -> bool:
    """End every session of the database but one's own."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        return bool(cursor.fetchone()[0])


ALL: tuple[Callable[[Faults], bool], ...] = (
    kill_a_crawl_worker,
    kill_a_reaper,
    kill_a_beat,
    deploy_a_crawl_worker,
    kill_a_pool_process,
    stop_a_crawl_worker,
    lose_a_message,
    copy_a_message,
    empty_the_queue,
    cut_the_broker_off,
    hang_the_broker,
    cut_the_database_off,
    # What makes late and doubled tasks is what has to be refused.
    stop_a_crawl_worker,
    copy_a_message,
    copy_a_message,
)
