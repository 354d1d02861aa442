"""The faults. Each is one function, which returns whether it found anything to act on."""

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
# Seconds: long enough to be taken for dead, short enough to resume while its runs are executed again.
STOPPED = (14, 25)


def command(name: str) -> list[str]:
    """Return the command of one of the processes."""
    if name in CRAWLERS:
        return commands.crawler(name)
    return commands.reaper(name) if name in REAPERS else commands.beat()


class Faults:
    """The service's processes, and the state of the faults injected into them."""

    def __init__(self, processes: ProcessGroup, redis: Any, rng: random.Random) -> None:
        self.processes, self.redis, self.rng = processes, redis, rng
        self.stops: list[Stop] = []
        # Process -> when it was stopped and will resume; process -> when it will be started again.
        self.stopped: dict[str, tuple[float, float]] = {}
        self.missing: dict[str, float] = {}
        self.done: dict[str, int] = {}
        self.deck: list[Callable[[Faults], bool]] = []

    def inject(self) -> str:
        """Inject the next fault of a shuffled deck; return its name."""
        while True:
            if not self.deck:
                self.deck = self.rng.sample(ALL, len(ALL))
            fault = self.deck.pop()
            if fault(self):
                name = fault.__name__.replace("_", " ")
                self.done[name] = self.done.get(name, 0) + 1
                return name

    def restore_due(self) -> None:
        """Restart what is missing or has ended, and resume what was stopped for long enough."""
        for name, (_, end) in list(self.stopped.items()):
            if time.time() >= end:
                self.resume(name)
        for name in self.processes.ended():
            self.processes.processes.pop(name)
            self.missing.setdefault(name, 0)
        for name, end in list(self.missing.items()):
            if time.time() >= end:
                del self.missing[name]
                self.processes.start(name, command(name))

    def end_all(self) -> None:
        """Resume and restart everything now."""
        self.stopped = {name: (began, 0) for name, (began, _) in self.stopped.items()}
        self.missing = dict.fromkeys(self.missing, 0.0)
        self.restore_due()

    def resume(self, name: str) -> None:
        """Resume a stopped process and its children, and record how long they were stopped."""
        began, _ = self.stopped.pop(name)
        for process in self.group(name):
            self.stops.append(Stop(process.pid, began, time.time()))
            process.send_signal(signal.SIGCONT)

    def group(self, name: str) -> Iterator[psutil.Process]:
        """Yield a process and its children."""
        main = psutil.Process(self.processes.processes[name].pid)
        yield from (main, *main.children(recursive=True))

    def pick(self, names: tuple[str, ...]) -> str:
        """Return a random one of these that is running; '' when none is."""
        running = [name for name in names if name in self.processes.processes and name not in self.stopped]
        return self.rng.choice([name for name in running if name not in self.processes.ended()] or [""])


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
    if name := faults.pick(names):
        faults.processes.kill(name)
        faults.missing[name] = time.time() + faults.rng.uniform(0, 8)
    return bool(name)


def deploy_a_crawl_worker(faults: Faults) -> bool:
    """Ask a worker to end, as a deploy does; it has five seconds for its tasks."""
    if name := faults.pick(CRAWLERS):
        os.kill(faults.processes.processes[name].pid, signal.SIGTERM)
        faults.missing[name] = time.time() + 5
    return bool(name)


def kill_a_pool_process(faults: Faults) -> bool:
    """Kill one child of a worker, as the kernel does without memory."""
    children = [child for name in [faults.pick(CRAWLERS)] if name for child in [*faults.group(name)][1:]]
    if children:
        faults.rng.choice(children).kill()
    return bool(children)


def stop_a_crawl_worker(faults: Faults) -> bool:
    """Stop a worker for so long that it is taken for dead, then resume it."""
    name = faults.pick(CRAWLERS)
    if not name or len(faults.stopped) > 1:
        return False
    for process in faults.group(name):
        process.suspend()
    faults.stopped[name] = (time.time(), time.time() + faults.rng.uniform(*STOPPED))
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
    """Pause the broker for three seconds."""
    faults.redis.execute_command("CLIENT", "PAUSE", 3000)
    return True


def cut_the_database_off(faults: Faults) -> bool:
    """End every session of the database but this one."""
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
    # More often: these produce the late and duplicate tasks that must be refused.
    stop_a_crawl_worker,
    copy_a_message,
    copy_a_message,
)
