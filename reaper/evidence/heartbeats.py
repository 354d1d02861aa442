"""The evidence that the heartbeats give on one run's task, whether the run is queued or running."""

from datetime import UTC, datetime

from reaper.core.facts import Evidence, RunFacts
from reaper.evidence import uncertainties
from reaper.evidence.fleet import Fleet
from reaper.workers.registry import Worker


def evidence_in_heartbeats(run: RunFacts, fleet: Fleet, queue: str) -> Evidence:
    """Return the evidence that the fleet has on a run; `queue` is that of its kind."""
    task_id = run.task_id or ""
    holder = fleet.holders.get(task_id)
    last_holder = None if holder else fleet.last_holders.get(task_id)
    silence = fleet.mass_silence(queue)
    reasons = fleet.uncertainties
    if silence:
        reasons = (*reasons, uncertainties.mass_silence(silence, queue))
    return Evidence(
        holder=holder.name if holder else "",
        active_since=task_started_at(holder, task_id) if holder else None,
        # guard: an incomplete heartbeat
        absent=bool(task_id) and holder is None and not fleet.uncertainties and not silence,
        witness=fleet.find_witness(queue),
        fleet_watched_since=fleet.watched_since,
        last_holder=last_holder.name if last_holder else "",
        queue=queue,
        uncertainties=reasons,
    )


def task_started_at(worker: Worker, task_id: str) -> datetime | None:
    """Return when the worker started the task, in the database's time; None when it has not started it."""
    try:
        return datetime.fromtimestamp(worker.active[task_id], UTC) + worker.skew
    except KeyError:
        return None
    except (ValueError, OverflowError, OSError):
        return worker.seen_at
