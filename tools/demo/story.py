"""The story: healthy runs all the time, and one kind of fault after the other among them."""

import itertools
import time
from collections.abc import Iterator
from uuid import UUID

from apps.sources import dispatch, parents
from apps.sources.models import CrawlJob, CrawlJobSourceResult, Source
from reaper.conf import settings as conf
from reaper.core.policy import Action
from reaper.core.reasons import Reason
from reaper.models import LedgerEntry
from reaper.sweeps import manual
from tools import commands
from tools.demo import faults
from tools.demo.faults import Fault
from tools.demo.terminal import Terminal
from tools.processes import ProcessGroup
from tools.site import Server, Site
from tools.watch import Watch
from tools.wrong_reaps import WrongReap

QUICK = [Site("daily-news", 6), Site("tech-blog", 4), Site("recipes", 8), Site("weather", 3), Site("bookshop", 5)]
SLOW = [Site("old-archive", 14, 0.5), Site("museum", 10, 0.6)]
LIBRARY = Site("town-library", 18, 0.5)
ENDLESS = Site("endless-feed", 5, 0.05, endless_page=3, config={"page_timeout": 600})
SITES = [*QUICK, *SLOW, LIBRARY, ENDLESS]
CRAWLERS = ("crawl1", "crawl2")
CRASHING = "crashing"
# A healthy run is started this often while the reaper has something to do.
PULSE_SECONDS = 3
START_SECONDS, RECOVERY_SECONDS = 45, 70


class Story:
    """The demo's scenes, in order, and what became of their runs."""

    def __init__(self, terminal: Terminal, watch: Watch, processes: ProcessGroup, server: Server) -> None:
        self.terminal, self.watch, self.processes, self.server = terminal, watch, processes, server
        self.sources = {site.name: self._source(site) for site in SITES}
        self.names: dict[str, str] = {}
        self.healthy: list[str] = []
        self.rounds: list[str] = []
        self.faults: list[Fault] = []
        self.planted = ""
        self.reasons: dict[str, str] = {}
        self._announced: set[str] = set()
        self._next_pulse = 0.0
        self._pulses: Iterator[Site] = itertools.cycle([QUICK[0], SLOW[0], QUICK[1], SLOW[1], QUICK[2]])
        watch.on_observation, watch.on_reaping, watch.on_wrong = (
            self.show_progress,
            self._show_reaping,
            self._show_wrong,
        )

    # --- the scenes ---------------------------------------------------------------------------------------------

    def play(self, *, quick: bool, plant: bool) -> None:
        """Play all scenes, or with `quick` only the fault that is recovered soonest. Raises `TimedOut`."""
        if not quick:
            self.lose_message()
        self.start_workers()
        if not quick:
            self.kill_worker()
            self.hang()
        if plant:
            self.plant_wrong_reap()
        self.cut_off_finalization()
        if not quick:
            self.rush()
        self.watch.until(
            self._is_all_recovered, missing="not every stuck run was recovered in time", timeout=RECOVERY_SECONDS
        )
        self.watch.until(lambda: not self.not_completed(), missing="not every healthy run was completed")

    def lose_message(self) -> None:
        """Dispatch a run while no worker is up, and delete its message from Redis."""
        job = dispatch.create_job(self.sources["bookshop"].pk, triggered_by="manual")
        self.names[str(job.pk)] = "bookshop"
        task_id = dispatch.dispatch_run(CrawlJob, job.pk)
        self.watch.delete_message(task_id)
        lost = Fault(
            "message deleted from Redis", "bookshop", str(job.pk), "pending, with no message", faults.completed
        )
        self._happened(lost, "bookshop is dispatched while no worker is up, and its message is deleted from Redis")

    def start_workers(self) -> None:
        """Start the two crawl workers."""
        for name in CRAWLERS:
            self.processes.start(name, commands.crawler(name))
        self._wait_for(*CRAWLERS, "reaper")
        self.terminal.event("demo", f"two crawl workers are up, with {commands.CRAWL_SLOTS} slots each")

    def kill_worker(self) -> None:
        """Kill the worker that crawls one source of a multi-source job, in the middle of the crawl."""
        parent = self._round("morning round", [*QUICK[:3], LIBRARY])
        children = self._children(parent)
        victim = children.pop(LIBRARY.name)
        others = list(children.values())
        self.healthy += others
        self.watch.until(
            lambda: self.watch.run(victim).pages >= 3 and all(self.watch.run(pk).finished for pk in others),
            missing="the crawl that was to be killed did not get under way",
        )
        row = self.watch.run(victim)
        worker = row.worker.partition("@")[0]
        pid = self.processes.kill(worker)
        killed = Fault(
            "worker killed mid-crawl", LIBRARY.name, victim, "running, with no worker", faults.ended, parent=parent
        )
        self._happened(killed, f"worker {worker} (pid {pid}) killed with SIGKILL on page {row.pages} of {LIBRARY.name}")
        self.processes.start(worker, commands.crawler(worker))
        self.terminal.event(
            "demo", f"{worker} is started again, as a supervisor would; it does not have that crawl any more"
        )

    def hang(self) -> None:
        """Crawl a site with a page that never ends, past the task's hard time limit."""
        run = self._job(ENDLESS)
        self.watch.until(lambda: self.watch.run(run).pages >= 1, missing="the endless crawl did not begin")
        self.faults.append(
            Fault("task hung past its hard limit", ENDLESS.name, run, "running, its process killed", faults.ended)
        )
        self.terminal.event(
            "fault", f"{ENDLESS.name} hangs on a page that never ends; Celery kills it at its hard time limit"
        )

    def rush(self) -> None:
        """Dispatch more healthy runs than there are slots, so that some of them have to wait."""
        sites = [*QUICK[:3], *SLOW]
        parent = self._round("noon round", sites)
        self.rounds.append(parent)
        self.healthy += [*self._children(parent).values(), *(self._job(site) for site in SLOW)]
        count = len(sites) + len(SLOW)
        self.terminal.event(
            "demo", f"{count} healthy runs are dispatched beside the stuck ones; some are slow, some must wait"
        )

    def cut_off_finalization(self) -> None:
        """Have the worker of a parent's last child die between the child's commit and the parent's finalization."""
        # Start the worker first: the reaper dispatches a child that has waited too long without a task.
        self.processes.start(CRASHING, commands.crashing_crawler(CRASHING))
        self._wait_for(CRASHING)
        parent = CrawlJob.objects.create(is_multi_source=True)
        self.names[str(parent.pk)] = "evening round"
        pks = [self._child(parent, QUICK[3]), self._child(parent, QUICK[1])]
        self.healthy += pks
        dispatch.dispatch_run(CrawlJobSourceResult, pks[0])
        self.watch.until(lambda: self.watch.run(pks[0]).finished, missing="the first child did not end")
        dispatch.dispatch_run(CrawlJobSourceResult, pks[1], queue=CRASHING)
        self.watch.until(
            lambda: CRASHING in self.processes.ended() and self.watch.run(pks[1]).finished,
            missing="the worker of the last child did not die at its end",
        )
        orphan = Fault(
            "last child's finalization never ran", "evening round", str(parent.pk),
            "parent running, all children completed", faults.finalized,
        )  # fmt: skip
        self._happened(
            orphan, "the worker of evening round's last child died after its commit, before it could finalize"
        )

    def plant_wrong_reap(self) -> None:
        """Fail a healthy run by the reaper's manual action while its task is alive. The demo must detect it."""
        self.planted = self._job(SLOW[1])
        adapter = conf.adapters()["crawl_job"]

        def reap() -> bool:
            run = adapter.get(self.planted)
            under_way = self.watch.run(self.planted).pages >= 2
            return bool(under_way and run and manual.act_on_run(adapter, run, Action.FAIL, "the demo")[0])

        self.watch.until(reap, missing="the run that was to be reaped wrongly did not get under way")
        self.terminal.event("fault", f"planted: {SLOW[1].name}, a healthy run, was failed in the middle of its work")
        self.watch.until(lambda: self.watch.wrong, missing="the planted wrong reap was not noticed")

    # --- concurrently -------------------------------------------------------------------------------------------

    def pulse(self) -> None:
        """Start the next healthy run when it is time."""
        if time.time() >= self._next_pulse:
            self._next_pulse = time.time() + PULSE_SECONDS
            self.healthy.append(self._job(next(self._pulses)))

    def show_progress(self) -> None:
        """Print completed slow runs, tasks killed by their time limit, and recovered runs."""
        slow = tuple(site.name for site in SLOW)
        for pk in self.healthy:
            if (
                self.names[pk].startswith(slow)
                and pk not in self._announced
                and self.watch.run(pk).status == "completed"
            ):
                self._announced.add(pk)
                self.terminal.event("healthy", f"{self.names[pk]} completed: slow, but alive, so it was left alone")
        for each in self.faults:
            if each.happened_at is None and not self.watch.is_alive(each.run):
                self._happened(
                    each, f"{each.name} was killed by Celery at its hard time limit; its row still says running"
                )
            if each.update(self.watch.run(each.run), self.watch.run(each.parent)):
                self.terminal.event(
                    "recovered", f"{each.name} is {each.outcome}, {each.recovery:.1f} s after the fault"
                )

    def _is_all_recovered(self) -> bool:
        recovered = all(each.recovered_at for each in self.faults)
        if not recovered:
            self.pulse()
        return recovered

    def not_completed(self) -> list[str]:
        """Return the names of the healthy runs that are not completed."""
        uncompleted = [pk for pk in self.healthy if not faults.completed(self.watch.run(pk))]
        return [
            self.names[pk]
            for pk in uncompleted + [pk for pk in self.rounds if not faults.finalized(self.watch.run(pk))]
        ]

    # --- helpers ------------------------------------------------------------------------------------------------

    def _happened(self, what: Fault, sentence: str) -> None:
        what.happen()
        if what not in self.faults:
            self.faults.append(what)
        self.terminal.event("fault", sentence)

    def _show_reaping(self, row: LedgerEntry) -> None:
        name = self.names.get(row.run_id, row.run_id)
        if row.action != LedgerEntry.DISPATCH:
            self.reasons[row.run_id] = f"{row.action} ({row.reason})"
            because = f"Finalized by the reaper: {Reason(row.reason).sentence} (rule {row.reason})."
            self.terminal.event("reaper", f"{name}: {row.message or because}")

    def _show_wrong(self, wrong: WrongReap) -> None:
        self.terminal.event("wrong", f"{self.names.get(wrong.run, wrong.run)} was wrongly reaped: {wrong.why}")

    def _wait_for(self, *names: str) -> None:
        self.watch.until(
            lambda: all(self.processes.is_ready(name) for name in names),
            missing=f"not all of these came up: {', '.join(names)}",
            timeout=START_SECONDS,
        )

    def _source(self, site: Site) -> Source:
        url = self.server.url(site.name)
        return Source.objects.create(name=site.name, url=url, domain="127.0.0.1", crawler_config=dict(site.config))

    def _job(self, site: Site) -> str:
        pk = dispatch.create_job(self.sources[site.name].pk, triggered_by="manual").pk
        self.names[str(pk)] = site.name
        dispatch.dispatch_run(CrawlJob, pk)
        return str(pk)

    def _child(self, parent: CrawlJob, site: Site) -> str:
        pk = str(CrawlJobSourceResult.objects.create(crawl_job=parent, source=self.sources[site.name]).pk)
        self.names[pk] = f"{site.name} of {self.names[str(parent.pk)]}"
        return pk

    def _round(self, name: str, sites: list[Site]) -> str:
        parent = parents.create_parent([self.sources[site.name] for site in sites], triggered_by="schedule")
        self.names[str(parent.pk)] = name
        self.names |= {pk: f"{source} of {name}" for source, pk in self._children(parent.pk).items()}
        return str(parent.pk)

    def _children(self, parent: str | UUID) -> dict[str, str]:
        """Return a parent's children by their sources' names."""
        rows = CrawlJobSourceResult.objects.filter(crawl_job=parent).values_list("source__name", "pk")
        return {source: str(pk) for source, pk in rows}
