"""What is done to the workers, and when each run that this left behind was recovered, by the host's own rows."""

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

STEADY, VICTIM, HOARDER, DOOMED = "crawl1", "crawl2", "hoarder", "doomed"
SLOTS = 2
# A crawl that outlasts every kill, one that ends meanwhile, and one that ends at once.
LONG, SLOW, QUICK = Site("long", 400, 0.5), Site("slow", 12, 0.5), Site("quick", 2)
# A silence limit: so long must somebody have been watching before anything can be known.
WATCHED_SECONDS = 15
SWEEP_SECONDS, HEAL_SECONDS = 5.0, 90


@dataclass
class Harm:
    """One thing that was done: the rows that it made untrue, as they were, and when each was true again."""

    name: str
    at: float
    before: dict
    healed: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """Return how long it took until the last of them was recovered."""
        return max(self.healed.values()) - self.at if len(self.healed) == len(self.before) else None


class Bench:
    """One measurement."""

    def __init__(self, processes: ProcessGroup, watch: Watch) -> None:
        self.processes, self.watch = processes, watch
        self.server = Server([LONG, SLOW, QUICK])
        self.sources = {
            site.name: Source.objects.create(
                name=site.name, url=self.server.url(site.name), crawler_config={"delay": 0}
            )
            for site in (LONG, SLOW, QUICK)
        }
        self.kills: list[Harm] = []
        self.harms: list[Harm] = []
        self.healthy: list[str] = []
        watch.on_look = self.look

    def close(self) -> None:
        """Stop serving."""
        self.server.close()

    def recoveries(self) -> list[float]:
        """Return the seconds from each kill to the recovery of its last run."""
        return [harm.seconds for harm in self.kills if harm.seconds is not None]

    def others(self) -> dict[str, float | None]:
        """Return the seconds of everything else that was done; None for what was not recovered."""
        return {harm.name: harm.seconds for harm in self.harms}

    def play(self, kills: int) -> None:
        """Lose messages, kill workers, and wait for the last recovery. Raises `TimedOut`."""
        self.processes.start("reaper", commands.reaper())
        self.processes.start("beat", commands.beat())
        self.watch.until(Sweep.objects.exists, missing="nothing sweeps", within=60)
        # With nobody to take them, the messages can be deleted.
        for number in range(1, 4):
            self.lose(f"message deleted {number}")
        self.processes.start(STEADY, worker(STEADY, "default,crawl"))
        # These two are given nothing but their own: another's message, delivered to one of them, would die with it.
        for name in (VICTIM, HOARDER):
            self.processes.start(name, worker(name))
        self.processes.start(DOOMED, commands.crashing_crawler(DOOMED))
        self.await_ready("reaper", STEADY, VICTIM, HOARDER, DOOMED)
        watched = time.time() + WATCHED_SECONDS
        self.watch.until(lambda: time.time() > watched, missing="time")
        self.strand()
        self.cut_off_finalization()
        for number in range(1, kills + 1):
            self.kill(number)
        self.watch.until(self.all_healed, missing="not everything was recovered", within=HEAL_SECONDS)
        self.watch.until(self.all_well, missing="not every healthy run was completed")

    # --- what is done ---------------------------------------------------------------------------------------------

    def lose(self, name: str) -> None:
        """Dispatch a run and delete its message."""
        run = self.dispatch(QUICK, "crawl")
        self.watch.until(lambda: self.watch.run(run).task_id, missing="the run was not dispatched")
        self.watch.delete_message(self.watch.run(run).task_id)
        self.harms.append(self.harm(name, run))

    def kill(self, number: int) -> None:
        """Kill the worker that has been working on its runs for more than a second, and start it again.

        One at a time: while the next one is dying the workers' own answers are waited for in vain.
        """
        self.healthy.append(self.dispatch(SLOW, STEADY))
        doomed = [self.dispatch(LONG, VICTIM) for _ in range(SLOTS)]
        self.await_claimed(*doomed)
        # Anywhere within the interval of the sweeps.
        moment = time.time() + 1 + random.uniform(0, SWEEP_SECONDS)
        self.watch.until(lambda: time.time() > moment, missing="time")
        self.processes.kill(VICTIM)
        harm = self.harm(f"kill {number}", *doomed)
        self.kills.append(harm)
        self.processes.start(VICTIM, worker(VICTIM))
        self.await_ready(VICTIM)
        self.watch.until(
            lambda: harm.seconds is not None, missing=f"{harm.name} was not recovered", within=HEAL_SECONDS
        )

    def strand(self) -> None:
        """Kill a worker that has been given a message and has not begun with it."""
        busy = [self.dispatch(LONG, HOARDER) for _ in range(SLOTS)]
        self.await_claimed(*busy)
        run = self.dispatch(QUICK, HOARDER)
        self.watch.until(
            lambda: self.watch.run(run).task_id in self.watch.seen.waiting, missing="the message was not delivered"
        )
        self.processes.kill(HOARDER)
        # Celery may not have acknowledged those either that had only just begun.
        self.watch.undeliverable |= {self.watch.run(each).task_id for each in (run, *busy)}
        self.harms += [self.harm("stranded", run), self.harm("killed with it", *busy)]

    def cut_off_finalization(self) -> None:
        """Have the worker of a parent's last child die between the child's commit and the parent's finalization."""
        parent = CrawlJob.objects.create(is_multi_source=True)
        child = CrawlJobSourceResult.objects.create(crawl_job=parent, source=self.sources[QUICK.name])
        dispatch.dispatch_run(CrawlJobSourceResult, child.pk, queue=DOOMED)
        self.watch.until(
            lambda: DOOMED in self.processes.died() and self.watch.run(str(child.pk)).finished,
            missing="the worker of the last child did not die at its end",
        )
        # Its worker may have died before it had acknowledged the message of a crawl that takes no time.
        self.watch.undeliverable.add(self.watch.run(str(child.pk)).task_id)
        self.harms.append(self.harm("parent not finalized", str(parent.pk)))

    # --- what becomes of it ---------------------------------------------------------------------------------------

    def harm(self, name: str, *pks: str) -> Harm:
        """Note that these rows have just become untrue."""
        return Harm(name, time.time(), {pk: self.watch.run(pk) for pk in pks})

    def look(self) -> None:
        """Note what has been recovered since the last look."""
        for harm in [*self.kills, *self.harms]:
            for pk, before in harm.before.items():
                if pk not in harm.healed and taken(before, self.watch.run(pk)):
                    harm.healed[pk] = time.time()
                    if harm.seconds is not None:
                        print(f"{harm.name}: recovered after {harm.seconds:.1f} s", flush=True)

    def all_healed(self) -> bool:
        """Whether everything that was done is undone."""
        return all(harm.seconds is not None for harm in [*self.kills, *self.harms])

    def all_well(self) -> bool:
        """Whether every run that nothing was done to has completed."""
        return all(self.watch.run(pk).status == "completed" for pk in self.healthy)

    # --- small things ---------------------------------------------------------------------------------------------

    def dispatch(self, site: Site, queue: str) -> str:
        """Dispatch a run to a queue, which every worker has of its own; return its key."""
        pk = dispatch.create_job(self.sources[site.name].pk, triggered_by="manual").pk
        dispatch.dispatch_run(CrawlJob, pk, queue=queue)
        return str(pk)

    def await_claimed(self, *pks: str) -> None:
        """Wait until the runs are being worked on."""
        self.watch.until(lambda: all(self.watch.run(pk).pages for pk in pks), missing="the crawls did not begin")

    def await_ready(self, *names: str) -> None:
        """Wait until the workers have said so."""
        self.watch.until(lambda: all(map(self.processes.ready, names)), missing=f"not all came up: {names}", within=60)


def worker(name: str, queues: str = "") -> list[str]:
    """Return the command of a crawl worker that has a queue of its own, besides others or alone."""
    return [word if word != "default,crawl" else f"{queues},{name}".lstrip(",") for word in commands.crawler(name)]
