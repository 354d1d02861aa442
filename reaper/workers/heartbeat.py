"""A worker's heartbeat: a thread in its main process writes one `WorkerHeartbeat` every 3 s, on every pool.

It is a native thread, so neither a busy solo pool nor a CPU-bound greenlet can block it. It has its own database
connection, so a hanging database blocks nothing else. It ends after the pool does. It applies no rules.
"""

import atexit
import time
from contextlib import suppress
from typing import Any

from reaper.workers import identity, timing
from reaper.workers.heartbeat_report import ReportCollector
from reaper.workers.heartbeat_writer import HeartbeatWriter
from reaper.workers.identity import WorkerIdentity
from reaper.workers.native_threads import held_lock, release, unpatched
from reaper.workers.trouble_log import Trouble, TroubleLog

REPORT_FAILED = Trouble("cannot report to the reaper", "reports to the reaper again")

heartbeat: "HeartbeatThread | None" = None
"""The thread of this process; None before its worker is ready, and outside of a worker."""


def on_init(sender: Any, **_: Any) -> None:
    """Give the worker its identity, before its pool forks (Celery's `worker_init`)."""
    identity.assign_identity(str(sender.hostname))


def on_ready(sender: Any, **_: Any) -> None:
    """Start the heartbeat (Celery's `worker_ready`), and wait for the first report: no task has been taken yet."""
    global heartbeat
    if heartbeat is None and identity.current:
        heartbeat = HeartbeatThread(sender, identity.current)
        # Celery does not announce every end of a worker: a cold shutdown sends no signal.
        atexit.register(on_shutdown)
        unpatched("_thread", "start_new_thread")(heartbeat.run, ())
        heartbeat.reported.acquire(timeout=timing.WRITE_TIMEOUT_S)


def on_shutting_down(**_: Any) -> None:
    """Report at once that the worker is shutting down (Celery's `worker_shutting_down`, sent by a signal handler)."""
    if heartbeat:
        heartbeat.collector.shutdown_announced = True
        release(heartbeat.wake)


def on_shutdown(**_: Any) -> None:
    """Write the last report once the pool has ended (Celery's `worker_shutdown`, or the process's exit).

    Where the pool has not ended, its children may outlive this call; the reports then go on until the process is gone.
    """
    if heartbeat and heartbeat.collector.has_ended() and not heartbeat.leaving:
        heartbeat.leaving = True
        release(heartbeat.wake)
        heartbeat.gone.acquire(timeout=timing.WRITE_TIMEOUT_S)


class HeartbeatThread:
    """The thread: `run` is its body, and `report` its step. The locks and `leaving` are for the other threads."""

    def __init__(self, consumer: Any, worker: WorkerIdentity) -> None:
        """Report the worker of this Celery consumer under this identity."""
        self.troubles = TroubleLog()
        self.collector = ReportCollector(consumer, self.troubles)
        self.writer = HeartbeatWriter(worker)
        self.leaving = False
        """Set it to make the next report the last one."""
        self.wake = held_lock()
        """Release it to have the next report written at once."""
        self.reported = held_lock()
        """Released after the first report, successful or not."""
        self.gone = held_lock()
        """Released at the thread's end."""

    def run(self) -> None:
        """Report every `REPORT_INTERVAL_S` until the last report is written. Nothing that goes wrong ends it."""
        last = False
        while not last:
            started = time.monotonic()
            last = self.leaving
            with suppress(Exception):  # raised by the log itself: everything else is logged there
                self.report(last=last)
            release(self.reported)
            if not last:
                self.wake.acquire(timeout=max(0, started + timing.REPORT_INTERVAL_S - time.monotonic()))
        self.writer.disconnect()
        release(self.gone)

    def report(self, *, last: bool = False) -> None:
        """Write one report; repeat a write that failed once, at once, over a new connection. Log what goes wrong."""
        try:
            try:
                self.writer.write(self.collector.collect, last=last)
            except Exception:
                self.writer.disconnect()
                self.writer.write(self.collector.collect, last=last)
        except Exception as error:
            self.writer.disconnect()
            self.troubles.log_trouble(REPORT_FAILED, error)
        else:
            self.troubles.log_trouble(REPORT_FAILED, None)
