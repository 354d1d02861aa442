"""Real workers side by side, each with its own fault. The journal of their tasks shows what really happened."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from apps.sources import dispatch
from apps.sources.models import CrawlJob, CrawlJobSourceResult, Source
from reaper.conf import settings as conf
from reaper.core.facts import Phase
from reaper.models import LedgerEntry, Sweep, WorkerHeartbeat
from reaper.sweeps.sweep import sweep
from tests import processes
from tests.processes import PATIENCE, wait_until
from tools.watch import Watch

SWEEP_INTERVAL_S = 1.0


class Gate:
    """A web page that is answered once the test lets it."""

    def __init__(self) -> None:
        self.asked, self.open = threading.Event(), threading.Event()

    def page(self) -> str:
        self.asked.set()
        self.open.wait(300)
        return "the end"


class Scenario:
    """The workers, and the runs by name. While a test waits for something, everything is swept once a second."""

    def __init__(self, folder: Path, broker_url: str, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.pids: dict[str, int] = {}
        self.runs: dict[str, Any] = {}
        self.gates: dict[str, Gate] = {}
        self.acted: dict[str, float] = {}
        self.site = stack.enter_context(processes.site({}))
        self.last_sweep = 0.0
        self.forkserver = subprocess.Popen(
            [sys.executable, "-m", "tests.live.worker_forkserver"],
            cwd=processes.ROOT,
            env={
                **os.environ, "DATABASE_URL": processes.database_url(), "CELERY_BROKER_URL": broker_url, "DEBUG": "1",
                "CRAWL_ALLOW_PRIVATE": "1", "CRAWL_JOURNAL": str(folder / "journal.jsonl"), "PYTHONUNBUFFERED": "1",
                # A task that gets a soft limit ends its run itself, and Celery counts the hard limit from the soft one.
                "CRAWL_SOFT_TIME_LIMIT": "0",
            },
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, text=True,
        )  # fmt: skip
        stack.callback(self.end)

    @cached_property
    def watch(self) -> Watch:
        """What checks every recovery against the journal and Redis; it cannot read RabbitMQ."""
        watch = Watch(self.folder / "journal.jsonl", end=time.time() + 900, check=lambda: None)
        self.stack.callback(watch.close)
        watch.on_observation = self.sweep_in_time
        return watch

    def end(self) -> None:
        """Kill all workers; first answer the tasks that wait for a page, so that the site's threads end."""
        for gate in self.gates.values():
            gate.open.set()
        with self.forkserver:  # closes its input, which ends it and all its workers, and waits
            pass

    # --- workers ------------------------------------------------------------------------------------------------

    def start(self, name: str, *options: str, queues: str = "", node: str = "", quirk: str = "") -> int:
        """Start a worker that consumes its own queue besides `crawl`, or these; return its pid."""
        words = ["-A", "config.celery", "worker", "-n", f"{node or name}@test", "-Q", queues or f"crawl,{name}"]
        words += ["-l", "info", "--without-gossip", "--without-mingle", *(options or ("-c", "1"))]
        order = {"words": words, "log": str(self.log(name)), "quirk": quirk}
        self.forkserver.stdin.write(json.dumps(order) + "\n")
        self.forkserver.stdin.flush()
        self.pids[name] = int(self.forkserver.stdout.readline())
        return self.pids[name]

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def await_ready(self, *names: str) -> None:
        def ready(name: str) -> bool:
            assert psutil.pid_exists(self.pids[name]), self.log(name).read_text()
            return self.log(name).exists() and " ready." in self.log(name).read_text()

        wait_until(lambda: all(ready(name) for name in names), what=f"{names} are ready, see {self.folder}")

    def signal(self, name: str, number: int, *, group: bool = False) -> None:
        (os.killpg if group else os.kill)(self.pids[name], number)

    def has_ended(self, name: str) -> bool:
        return not psutil.pid_exists(self.pids[name])

    def is_stopped(self, name: str) -> bool:
        return psutil.Process(self.pids[name]).status() == psutil.STATUS_STOPPED

    def child_of(self, run: str) -> int:
        """The process that claimed a run last."""
        claims = [event.pid for event in self.watch.journal if event.event == "claimed" and event.run == self.key(run)]
        return claims[-1]

    def has_witness(self, seconds: float = 12) -> bool:
        """Whether a worker has been reporting for longer than `DEAD_AFTER`."""
        stamps = WorkerHeartbeat.objects.filter(ended_at=None).values_list("since", "seen_at")
        return any((seen - since).total_seconds() > seconds for since, seen in stamps)

    # --- runs ---------------------------------------------------------------------------------------------------

    def crawl(self, name: str, queue: str = "", *, child: bool = False, url: str = "", **options: Any) -> None:
        """Dispatch a run whose second page waits for the test, to the worker of its name unless a queue is given."""
        gate = self.gates[name] = Gate()
        if not url:
            self.site.pages |= {f"/{name}": f"<a href=/{name}/end>on</a>", f"/{name}/end": gate.page}
        source = Source.objects.create(
            name=name, url=url or f"{self.site.url}{name}", crawler_config={"page_timeout": 600, "delay": 0}
        )
        if child:
            parent = CrawlJob.objects.create(is_multi_source=True)
            self.runs[name] = CrawlJobSourceResult.objects.create(crawl_job=parent, source=source)
        else:
            self.runs[name] = CrawlJob.objects.create(source=source)
        dispatch.dispatch_run(type(self.runs[name]), self.runs[name].pk, queue=queue or name, **options)

    def key(self, name: str) -> str:
        return str(self.runs[name].pk)

    def row(self, name: str) -> Any:
        return type(self.runs[name]).objects.get(pk=self.runs[name].pk)

    def await_under_way(self, *names: str) -> None:
        def all_are() -> bool:
            return all(self.row(name).pages_crawled == 1 for name in names)

        self.until(all_are, f"{names} are under way", PATIENCE)

    def release(self, *names: str) -> None:
        for name in names:
            self.gates[name].open.set()
            (self.folder / name).touch()

    def statuses(self) -> dict[str, str]:
        return {name: self.row(name).status for name in self.runs}

    # --- what happens ---------------------------------------------------------------------------------------------

    def until(self, happened: Callable[[], object], what: str, within: float = PATIENCE) -> None:
        """Check and sweep until it has happened."""
        self.watch.until(happened, missing=f"{what}, see {self.folder}", timeout=within)

    def run_for(self, seconds: float) -> None:
        """Check and sweep for that many seconds: the time is what the test is about."""
        ends = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > ends, "the time has passed", seconds + PATIENCE)

    def sweep_in_time(self) -> None:
        if time.monotonic() - self.last_sweep > SWEEP_INTERVAL_S:
            self.sweep()

    def sweep(self) -> list[Sweep]:
        """Sweep everything once, and record which runs were acted on when."""
        self.last_sweep = time.monotonic()
        rows = [sweep(each, phase) for each in conf.adapters().values() for phase in (Phase.RUNNING, Phase.QUEUED)]
        for run in set(self.recovered()) - set(self.acted):
            self.acted[run] = time.monotonic()
        return rows

    def recovered(self) -> dict[str, str]:
        """The runs that were acted on, by name, with the reasons."""
        names = {self.key(name): name for name in self.runs}
        rows = LedgerEntry.objects.exclude(action__in=[LedgerEntry.DISPATCH, LedgerEntry.FINALIZE]).order_by("pk")
        return {names.get(row.run_id, row.run_id): row.reason for row in rows}

    def wrongly_recovered(self) -> set[str]:
        """The runs that were taken from a live task, by what the tasks and processes themselves showed."""
        self.watch.observe()
        self.watch.final_judgement()
        names = {self.key(name): name for name in self.runs}
        return {names.get(run, run) for run, _ in self.watch.wrong}


@contextmanager
def scenario_on(broker_url: str, folder: Path) -> Iterator[Scenario]:
    """A scenario on this broker."""
    with processes.broker_at(broker_url), ExitStack() as stack:
        yield Scenario(folder, broker_url, stack)
