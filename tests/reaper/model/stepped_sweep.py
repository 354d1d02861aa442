"""A real sweep that stops at each of its steps: it may go on, be killed there, or lose its database."""

import threading
from queue import Queue

from django.db import InterfaceError, connections

from reaper.core.policy import SweepScope
from reaper.sweeps import outbox
from reaper.sweeps import sweep as sweep_module
from reaper.sweeps.outbox import Outbox
from reaper.sweeps.parents import finalize_parents
from reaper.sweeps.writer import GuardedWriter

# Never so long unless something is wrong: the other side waits for a lock, or for this side.
PATIENCE = 30
HERE = threading.local()


class Killed(BaseException):
    """The process of the sweep is killed: nothing catches that."""


class SteppedSweep:
    """One sweep in a thread, with a database connection of its own."""

    def __init__(self, adapter, phase):
        self.kind, self.phase = adapter.kind, phase
        self.at, self.ended, self.error = "", False, None
        self.orders, self.reports = Queue(), Queue()
        self.thread = threading.Thread(target=self._body, args=[adapter, phase], daemon=True)
        self.thread.start()
        self._wait()

    def resume(self, order=""):
        """Take one step: "" goes on, "kill" ends the process here, "database" loses the database here."""
        self.orders.put(order)
        self._wait()

    def finish(self):
        """Take all the steps that are left."""
        while not self.ended:
            self.resume()

    def stop_at(self, step):
        """Stop here; called in the sweep's own thread."""
        self.reports.put(step)
        order = self.orders.get(timeout=PATIENCE)
        if order == "kill":
            raise Killed
        if order == "database":
            raise InterfaceError("the connection is lost")

    def _wait(self):
        self.at = self.reports.get(timeout=PATIENCE)
        if self.at is None:
            self.thread.join(PATIENCE)
            self.ended = True
            if self.error:
                raise self.error

    def _body(self, adapter, phase):
        HERE.sweep = self
        try:
            finalize_parents(adapter) if phase == SweepScope.PARENTS else sweep_module.sweep(adapter, phase)
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        finally:
            connections.close_all()
            self.reports.put(None)


def stepping(monkeypatch, committed):
    """Have the sweeps that are `SteppedSweep`s stop before each write, after its commit, and before each message.

    No step holds a row's lock: a worker's write would wait for it, and nothing would resume the sweep.
    `committed(log, updates)` receives what was written, whichever sweep it was.
    """
    try_write = GuardedWriter.try_write

    def stepped_write(self, updates):
        pause("before the write")
        applied = try_write(self, updates)
        if len(applied) == len(updates):
            committed(self.log, applied)
            pause("committed")
        return applied

    monkeypatch.setattr(GuardedWriter, "try_write", stepped_write)
    for owner, name, step in (
        (Outbox, "publish", "revoked"),
        (outbox, "confirm_dispatches", "published"),
        (GuardedWriter, "finalize", "before a parent"),
        (sweep_module, "store_sightings", "judged"),
    ):
        monkeypatch.setattr(owner, name, stopping(getattr(owner, name), step))


def stopping(function, step):
    """Return the function with a stop before it."""

    def stopped(*args, **more):
        pause(step)
        return function(*args, **more)

    return stopped


def pause(step):
    """Stop where the thread is that of a stepped sweep."""
    if sweep := getattr(HERE, "sweep", None):
        sweep.stop_at(step)
