"""One soak: start the service, load it, inject faults, let it recover, and collect what became of every run."""

import random
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from celery import current_app
from django.db import connection

from apps.sources import dispatch, parents
from apps.sources.models import CrawlJob, CrawlJobSourceResult, Source
from reaper.conf import settings as conf
from reaper.models import LedgerEntry
from tools.journal import UNFINISHED, Journal
from tools.processes import ProcessGroup
from tools.site import Server, Site
from tools.soak import judge
from tools.soak.faults import BEATS, CRAWLERS, REAPERS, Faults, command

SITES = [Site("quick", 2, 0.05), Site("usual", 4, 0.3), Site("slow", 8, 0.8)]
# The database itself records every change of a status.
WITNESS = """
CREATE TABLE soak_transitions (id bigserial, run uuid, was text, now text);
CREATE FUNCTION soak_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO soak_transitions (run, was, now) VALUES (OLD.id, OLD.status, NEW.status);
    RETURN NULL;
END $$;
CREATE TRIGGER soak_note AFTER UPDATE OF status ON crawl_jobs
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION soak_note();
CREATE TRIGGER soak_note AFTER UPDATE OF status ON crawl_job_source_results
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION soak_note();
"""


class Soak:
    """One soak, from the empty servers to the verdicts."""

    def __init__(self, processes: ProcessGroup, journal: Path, rng: random.Random) -> None:
        self.processes, self.journal, self.rng = processes, journal, rng
        self.server = Server(SITES)
        self.broker = current_app.connection_for_write()
        self.faults = Faults(processes, self.broker.default_channel.client, rng)
        self.began = time.time()

    def start(self) -> None:
        """Start the service: three workers, two reapers, two Beats."""
        with connection.cursor() as cursor:
            cursor.execute(WITNESS)
        self.sources = [
            Source.objects.create(name=site.name, url=self.server.url(site.name), domain="127.0.0.1") for site in SITES
        ]
        for name in (*CRAWLERS, *REAPERS, *BEATS):
            self.processes.start(name, command(name))
        end = time.time() + 60
        while not all(self.processes.is_ready(name) for name in (*CRAWLERS, *REAPERS)):
            if self.processes.ended() or time.time() > end:
                raise SystemExit(f"the service did not come up: {self.processes.tails()}")
            time.sleep(0.2)

    def inject_faults(self, seconds: float, between: tuple[float, float], load: int) -> None:
        """Dispatch runs and inject faults for `seconds`."""
        end = time.time() + seconds
        next_fault = time.time() + between[0]
        last_report = time.time()
        while time.time() < end:
            self.faults.restore_due()
            if self.count_unfinished() < load:
                self.dispatch()
            if time.time() >= next_fault:
                print(f"{time.time() - self.began:6.1f} s  {self.faults.inject()}", flush=True)
                next_fault = time.time() + self.rng.uniform(*between)
            if time.time() - last_report > 60:
                last_report = time.time()
                print(f"{last_report - self.began:6.1f} s  {CrawlJob.objects.count()} jobs so far", flush=True)
            time.sleep(0.05)

    def dispatch(self) -> None:
        """Dispatch a job, or a parent with three children. The reaper publishes what the broker refuses."""
        try:
            if self.rng.random() < 0.8:
                job = dispatch.create_job(self.rng.choice(self.sources).pk, triggered_by="manual")
                dispatch.dispatch_run(CrawlJob, job.pk)
            else:
                parents.create_parent(self.sources, triggered_by="manual")
        except Exception as error:
            print(f"{time.time() - self.began:6.1f} s  a dispatch failed: {type(error).__name__}", flush=True)

    def count_unfinished(self) -> int:
        """Return how many runs have not ended."""
        return sum(each.objects.filter(status__in=UNFINISHED).count() for each in (CrawlJob, CrawlJobSourceResult))

    def drain(self, seconds: float) -> None:
        """End all faults and wait until all runs have ended, for at most `seconds`."""
        print(
            f"{time.time() - self.began:6.1f} s  faults ended; {self.count_unfinished()} runs are left",
            flush=True,
        )
        end = time.time() + seconds
        self.faults.end_all()
        while self.count_unfinished() and time.time() < end:
            self.faults.restore_due()
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop everything."""
        self.faults.end_all()
        self.processes.stop()
        self.server.close()
        self.broker.release()

    def findings(self) -> dict[str, Any]:
        """Return the figures and the verdicts."""
        story = self.story()
        counts = {
            "runs": len(story.rows),
            "faults": sum(self.faults.done.values()),
            "reaped": len(story.reaps),
            "refused": judge.refused(story),
            "executed twice": judge.executed_twice(story),
        }
        return {"counts": counts, "faults": self.faults.done, "wrong": judge.verdicts(story)}

    def story(self) -> judge.Story:
        """Return the evidence for the judge."""
        policy = conf.policy(conf.adapters()["crawl_job"])
        with connection.cursor() as cursor:
            cursor.execute("SELECT run::text, was, now FROM soak_transitions ORDER BY id")
            transitions = [judge.Transition(*row) for row in cursor.fetchall()]
        reaps = LedgerEntry.objects.applied().exclude(action=LedgerEntry.FINALIZE).filter(actor="").order_by("id")
        names = ("run_id", "task_id", "created_at", "action", "reason", "phase", "interrupted")
        return judge.Story(
            rows=dict(self.rows()),
            transitions=transitions,
            events=Journal(self.journal).read_new(),
            reaps=[judge.Reap(run, task, at.timestamp(), *rest) for run, task, at, *rest in reaps.values_list(*names)],
            stops=self.faults.stops,
            budgets=(policy.max_requeues, policy.max_redispatches, policy.max_interruptions),
        )

    def rows(self) -> Iterator[tuple[str, judge.Row]]:
        """Yield every run, and every parent with its children."""
        children = defaultdict(list)
        for pk, parent, status, task_id in CrawlJobSourceResult.objects.values_list(
            "pk", "crawl_job_id", "status", "task_id"
        ):
            children[parent].append(status)
            yield str(pk), judge.Row(status, task_id)
        for pk, status, task_id, message in CrawlJob.objects.values_list("pk", "status", "task_id", "error_message"):
            yield str(pk), judge.Row(status, task_id, message, children.get(pk))
