"""The faults caused to the workers, and when each run that they left behind was recovered by the host's own rows."""

import random
import time
from dataclasses import dataclass, field

from apps.sources import dispatch
from apps.sources.models import CrawlJob, CrawlJobSourceResult, Source
from reaper.models import Sweep
from tools import commands
from tools.processes import ProcessGroup
from tools.site import Server, Site
from tools.watch import Watch
from tools.wrong_reaps import taken

STEADY, VICTIM, HOARDER, CRASHING = "crawl1", "crawl2", "hoarder", "crashing"
SLOTS = 2
# A crawl that outlasts every kill, one that ends during a kill, and one that ends at once.
LONG, SLOW, QUICK = Site("long", 400, 0.5), Site("slow", 12, 0.5), Site("quick", 2)
# Seconds. A worker must have been reporting for the silence limit before another can be found dead.
WATCHED_SECONDS = 15
SWEEP_SECONDS, RECOVERY_SECONDS = 5.0, 90


@dataclass
class Fault:
    """One fault: the rows that it made stale, as they were, and when each was recovered."""

    name: str
    at: float
    before: dict
    recovered: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """Return the seconds until the last of its rows was recovered; None before."""
        return max(self.recovered.values()) - self.at if len(self.recovered) == len(self.before) else None


class Bench:
    """One measurement from the start of the workers to the last recovery."""

    def __init__(self, processes: ProcessGroup, watch: Watch) -> None:
        self.processes, self.watch = processes, watch
        self.server = Server([LONG, SLOW, QUICK])
        self.sources = {
            site.name: Source.objects.create(
                name=site.name, url=self.server.url(site.name), crawler_config={"delay": 0}
            )
            for site in (LONG, SLOW, QUICK)
        }
        self.kills: list[Fault] = []
        self.faults: list[Fault] = []
        self.healthy: list[str] = []
        watch.on_observation = self.record_recoveries

    def close(self) -> None:
        """Stop serving."""
        self.server.close()

    def recoveries(self) -> list[float]:
        """Return the seconds from each kill to the recovery of its last run."""
        return [fault.seconds for fault in self.kills if fault.seconds is not None]

    def others(self) -> dict[str, float | None]:
        """Return the recovery seconds of the other faults by name; None for those not recovered."""
        return {fault.name: fault.seconds for fault in self.faults}

    def play(self, kills: int) -> None:
        """Lose messages, kill workers, and wait for the last recovery. Raises `TimedOut`."""
        self.processes.start("reaper", commands.reaper())
        self.processes.start("beat", commands.beat())
        self.watch.until(Sweep.objects.exists, missing="nothing sweeps", timeout=60)
        # Without a worker to take them, the messages can be deleted.
        for number in range(1, 4):
            self.lose(f"message deleted {number}")
        self.processes.start(STEADY, worker(STEADY, "default,crawl"))
        # These two get no other queue: another run's message, delivered to one of them, would die with it.
        for name in (VICTIM, HOARDER):
            self.processes.start(name, worker(name))
        self.processes.start(CRASHING, commands.crashing_crawler(CRASHING))
        self.await_ready("reaper", STEADY, VICTIM, HOARDER, CRASHING)
        watched = time.time() + WATCHED_SECONDS
        self.watch.until(lambda: time.time() > watched, missing="time")
        self.strand()
        self.cut_off_finalization()
        for number in range(1, kills + 1):
            self.kill(number)
        self.watch.until(self.is_all_recovered, missing="not everything was recovered", timeout=RECOVERY_SECONDS)
        self.watch.until(self.are_healthy_runs_completed, missing="not every healthy run was completed")

    # --- faults ---------------------------------------------------------------------------------------------------

    def lose(self, name: str) -> None:
        """Dispatch a run and delete its message."""
        run = self.dispatch(QUICK, "crawl")
        self.watch.until(lambda: self.watch.run(run).task_id, missing="the run was not dispatched")
        self.watch.delete_message(self.watch.run(run).task_id)
        self.faults.append(self.record_fault(name, run))

    def kill(self, number: int) -> None:
        """Kill the worker that has been working on its runs for more than a second, and start it again.

        One at a time: during the next kill the workers' inspect answers would be waited for in vain.
        """
        self.healthy.append(self.dispatch(SLOW, STEADY))
        victims = [self.dispatch(LONG, VICTIM) for _ in range(SLOTS)]
        self.await_claimed(*victims)
        # Anywhere within the interval of the sweeps.
        moment = time.time() + 1 + random.uniform(0, SWEEP_SECONDS)
        self.watch.until(lambda: time.time() > moment, missing="time")
        self.processes.kill(VICTIM)
        fault = self.record_fault(f"kill {number}", *victims)
        self.kills.append(fault)
        self.processes.start(VICTIM, worker(VICTIM))
        self.await_ready(VICTIM)
        self.watch.until(
            lambda: fault.seconds is not None, missing=f"{fault.name} was not recovered", timeout=RECOVERY_SECONDS
        )

    def strand(self) -> None:
        """Kill a worker that has prefetched a message and not started it."""
        busy = [self.dispatch(LONG, HOARDER) for _ in range(SLOTS)]
        self.await_claimed(*busy)
        run = self.dispatch(QUICK, HOARDER)
        self.watch.until(
            lambda: self.watch.run(run).task_id in self.watch.latest.waiting, missing="the message was not delivered"
        )
        self.processes.kill(HOARDER)
        # Celery may not have acknowledged the ones that had only just started either.
        self.watch.undeliverable |= {self.watch.run(each).task_id for each in (run, *busy)}
        self.faults += [self.record_fault("stranded", run), self.record_fault("killed with it", *busy)]

    def cut_off_finalization(self) -> None:
        """Have the worker of a parent's last child die between the child's commit and the parent's finalization."""
        parent = CrawlJob.objects.create(is_multi_source=True)
        child = CrawlJobSourceResult.objects.create(crawl_job=parent, source=self.sources[QUICK.name])
        dispatch.dispatch_run(CrawlJobSourceResult, child.pk, queue=CRASHING)
        self.watch.until(
            lambda: CRASHING in self.processes.ended() and self.watch.run(str(child.pk)).finished,
            missing="the worker of the last child did not die at its end",
        )
        # Its worker may have died before it had acknowledged the message of a crawl that takes no time.
        self.watch.undeliverable.add(self.watch.run(str(child.pk)).task_id)
        self.faults.append(self.record_fault("parent not finalized", str(parent.pk)))

    # --- recovery -------------------------------------------------------------------------------------------------

    def record_fault(self, name: str, *pks: str) -> Fault:
        """Return a fault that has just made these rows stale."""
        return Fault(name, time.time(), {pk: self.watch.run(pk) for pk in pks})

    def record_recoveries(self) -> None:
        """Record what was recovered since the last observation."""
        for fault in [*self.kills, *self.faults]:
            for pk, before in fault.before.items():
                if pk not in fault.recovered and taken(before, self.watch.run(pk)):
                    fault.recovered[pk] = time.time()
                    if fault.seconds is not None:
                        print(f"{fault.name}: recovered after {fault.seconds:.1f} s", flush=True)

    def is_all_recovered(self) -> bool:
        """Return whether every fault was recovered."""
        return all(fault.seconds is not None for fault in [*self.kills, *self.faults])

    def are_healthy_runs_completed(self) -> bool:
        """Return whether every healthy run has completed."""
        return all(self.watch.run(pk).status == "completed" for pk in self.healthy)

    # --- helpers --------------------------------------------------------------------------------------------------

    def dispatch(self, site: Site, queue: str) -> str:
        """Dispatch a run to a worker's own queue; return its key."""
        pk = dispatch.create_job(self.sources[site.name].pk, triggered_by="manual").pk
        dispatch.dispatch_run(CrawlJob, pk, queue=queue)
        return str(pk)

    def await_claimed(self, *pks: str) -> None:
        """Wait until the runs are being worked on."""
        self.watch.until(lambda: all(self.watch.run(pk).pages for pk in pks), missing="the crawls did not begin")

    def await_ready(self, *names: str) -> None:
        """Wait until the workers are ready."""
        self.watch.until(
            lambda: all(map(self.processes.is_ready, names)), missing=f"not all came up: {names}", timeout=60
        )


def worker(name: str, queues: str = "") -> list[str]:
    """Return the command of a crawl worker that consumes `queues` and a queue of its own."""
    return [word if word != "default,crawl" else f"{queues},{name}".lstrip(",") for word in commands.crawler(name)]
