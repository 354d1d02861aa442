"""Every figure, in order of measurement: idle sweeps from the smallest table to the largest, then reaping there."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from django.db import connection

from tools.bench import lite, measures, peers, plans, tables, workers
from tools.bench.bars import Figure
from tools.processes import ProcessGroup


@dataclass(frozen=True)
class Profile:
    """The sizes of the tables, and the numbers of stuck jobs in the usual and in the large measurements."""

    sizes: tuple[int, ...]
    stuck: int
    many: int
    # Bars of microseconds per run mean nothing for a small table on a busy machine.
    is_full: bool = False

    def bar(self, value: float) -> float | None:
        """Return the bar in the full profile; None in others."""
        return value if self.is_full else None


PROFILES = {
    "small": Profile((1_000, 100_000), 2_000, 5_000),
    "full": Profile((1_000, 1_000_000, 10_000_000), 10_000, 100_000, is_full=True),
}


def iter_figures(profile: Profile, processes: ProcessGroup) -> Iterator[Figure]:
    """Yield every figure."""
    with tables.without_checkpoints():
        yield from undisturbed(profile, processes)
    yield from workers.interference(dsn(), profile.many, "with the server's own checkpoints")


def undisturbed(profile: Profile, processes: ProcessGroup) -> Iterator[Figure]:
    """Yield what is measured without checkpoints: one would distort only one side of a ratio."""
    few, many = profile.stuck, profile.many
    yield from idle(profile)
    fail, requeue = yield from reaping(profile)
    yield Figure(f"look at {few:,} runs and leave each alone, per run", measures.leave(few) / few * 1e6, "µs")
    # Reading a small table as a whole is the best plan.
    if profile.is_full:
        yield Figure(f"queries of sweeps with {many:,} stuck that read a whole table", plans.whole_tables(many), "", 0)
    yield from rivals(profile, fail, requeue)
    yield Figure("delay of all by one locked row", measures.locked_row(few), "s", profile.bar(0.5))
    yield Figure("messages published", measures.publishing(2_000), "per s")
    yield Figure("revoke 1,000 tasks", measures.revoking(1_000), "ms")
    yield from workers.interference(dsn(), many, p99=profile.bar(10), longest=profile.bar(50))
    yield from workers.overhead(1_000)
    share = workers.idle_share(processes.processes["idle"].pid)
    yield Figure("an idle worker with its reports, of one processor", share * 100, "%")
    ratio = lite.measured(few)
    yield Figure(f"SQLite: fail {few:,} that timed out, against one UPDATE", ratio, "times", profile.bar(6))


def idle(profile: Profile) -> Iterator[Figure]:
    """Yield what a sweep costs that finds nothing."""
    empty = {}
    for rows in profile.sizes:
        tables.fill(rows)
        empty[rows], whole = measures.empty_sweep()
        is_largest = rows == profile.sizes[-1]
        name = f"all queries of a sweep of {rows:,} jobs, none stuck"
        yield Figure(name, empty[rows], "ms", profile.bar(5) if is_largest else None)
        yield Figure(f"sweeps of both kinds and all phases, of {rows:,} jobs", whole, "ms")
    times = empty[profile.sizes[-1]] / empty[profile.sizes[0]]
    yield Figure(f"the same, {profile.sizes[-1]:,} jobs against {profile.sizes[0]:,}", times, "times", 2)


def reaping(profile: Profile) -> Iterator[Figure]:
    """Yield what acting on orphans costs; return the seconds of failing and of requeuing the few."""
    few, many, bar = profile.stuck, profile.many, profile.bar
    took, bare = measures.reap_and_update(few)
    yield Figure(f"one UPDATE of {few:,} rows", bare, "s")
    yield Figure(f"fail {few:,} orphans, with evidence and ledger", took, "s")
    yield Figure(f"fail {few:,}, against one UPDATE", took / bare, "times", bar(3.5))
    took_many, bare_many = measures.reap_and_update(many)
    yield Figure(f"fail {many:,}, against one UPDATE", took_many / bare_many, "times", bar(5))
    yield Figure(f"fail {many:,}, seconds per 10,000", took_many / many * 10_000, "s")
    for rows, seconds in [(rows, measures.reap(rows)) for rows in (100, 1_000)] + [(few, took), (many, took_many)]:
        yield Figure(f"fail {rows:,} orphans, per run", seconds / rows * 1e6, "µs")
    yield Figure(f"fail {many:,}, memory", measures.memory(many), "MB", 20)
    naive = measures.naive_loop(few)
    yield Figure("a loop of get, change, save, against the same", naive / took, "times", bar(15), True)
    again, whole = measures.requeue(few)
    yield Figure(f"requeue {few:,} orphans", again, "s")
    yield Figure(f"requeue {few:,} orphans and publish their messages", whole, "s")
    return took, again


def rivals(profile: Profile, fail: float, requeue: float) -> Iterator[Figure]:
    """Yield how many times longer other queues take; nothing for one that cannot be installed."""
    jobs, ours = profile.stuck, {"fail": fail, "retry": requeue}
    bars = {("procrastinate", "fail"): 7, ("procrastinate", "retry"): 5}
    for peer, version in peers.VERSIONS.items():
        try:
            took = peers.rescue(peer, dsn(), jobs)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{peer} {version} cannot be measured: {error}")
            continue
        for way, seconds in sorted(took.items()):
            name = f"{peer} {version}, {way} {jobs:,} stalled jobs, against ours"
            bar = bars.get((peer, way))
            yield Figure(name, seconds / ours[way], "times", bar and profile.bar(bar), True)


def dsn() -> str:
    """Return the database's address as libpq has it."""
    return connection.get_new_connection(connection.get_connection_params()).dsn
