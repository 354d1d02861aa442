"""All JSON that the reaper prints: the shapes that scripts rely on (docs/JSON.md lists every key).

Times are ISO 8601 with an offset, durations whole seconds, absent values null.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from reaper.controls.overrides import EffectiveValue
from reaper.core.serialization import to_plain
from reaper.models import Alert, Sweep
from reaper.reports.health import SweepHealth
from reaper.reports.judged import JudgedRuns
from reaper.reports.run_lines import RunLine
from reaper.reports.status import KindStatus, Status, state_of_worker
from reaper.workers.registry import Worker

# Incremented when a key is removed or changes its meaning, but not for a new key.
SCHEMA = 2


def dumps(document: Mapping[str, Any]) -> str:
    """Return a document with its schema as JSON text."""
    return json.dumps({"schema": SCHEMA, **document}, indent=2, default=encode)


def encode(value: object) -> str:
    """Return a value that JSON does not know as text: a time in ISO 8601, anything else by `str`."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def status_document(status: Status) -> dict[str, Any]:
    """Return a status, for `status` and `diagnose`: they differ in `depth`, not in shape."""
    return {
        "as_of": status.now,
        "depth": status.depth.name.lower(),
        "is_healthy": status.is_healthy,
        "has_warnings": status.has_warnings,
        "stuck_runs": status.stuck_runs,
        "stuck_parents": status.stuck_parents,
        "late_runs": status.late_runs,
        "kinds": [kind_document(each) for each in status.kinds],
        "reasons": dict(sum((each.judged.reasons for each in status.kinds if each.judged), Counter[str]())),
        "runs": runs_document(line for kind in status.kinds for line in kind.lines),
        "alerts": [alert_document(each) for each in status.alerts],
        "workers": [worker_document(each, status) for each in status.workers],
        "queues": dict(status.queues),
        "queues_error": status.queues_error,
    }


def alert_document(row: Alert) -> dict[str, Any]:
    """Return one open alert of a status."""
    return {
        "alert": row.subject,
        "opened_at": row.opened_at,
        "message": row.message,
        "acknowledged_by": row.acknowledged_by,
    }


def kind_document(kind: KindStatus) -> dict[str, Any]:
    """Return one kind of a status."""
    return {
        "kind": kind.kind,
        "is_healthy": kind.is_healthy,
        "mode": str(kind.controls.mode),
        "paused_until": kind.controls.paused_until,
        "is_brake_engaged": kind.is_brake_engaged,
        "is_brake_overridden": kind.controls.released,
        "unfinished": {phase: each.count for phase, each in kind.phases.items()},
        "oldest_seconds": {phase: whole_seconds(each.oldest) for phase, each in kind.phases.items()},
        "stuck_runs": kind.stuck_runs,
        "stuck_parents": kind.stuck_parents,
        "late_runs": kind.late_runs,
        "reasons": dict(kind.judged.reasons) if kind.judged else {},
        "sweeps": [health_document(each) for each in kind.sweeps],
        "error": kind.error,
    }


def health_document(health: SweepHealth) -> dict[str, Any]:
    """Return how the sweeps of one scope are doing."""
    return {
        "phase": health.phase,
        "since_success_seconds": whole_seconds(health.since_success),
        "stuck_runs": health.stuck_runs,
        "conditions": dict(health.conditions),
        "notes": list(health.notes),
    }


def worker_document(worker: Worker, status: Status) -> dict[str, Any]:
    """Return one worker of a status."""
    return {
        "worker": worker.name,
        "state": str(state_of_worker(worker)),
        "since_heartbeat_seconds": whole_seconds(status.now - worker.seen_at),
        "running": len(worker.active),
        "reserved": len(worker.held - worker.active.keys()),
        "queues": sorted(worker.queues),
    }


def runs_document(lines: Iterable[RunLine]) -> list[dict[str, Any]]:
    """Return runs and parents, each with what was or would be done with it."""
    return [
        {
            "kind": line.kind,
            "id": line.id,
            "phase": line.phase,
            "action": line.action,
            "reason": line.reason,
            "age_seconds": whole_seconds(line.age),
            "alert": line.alert,
            "evidence": dict(line.evidence),
            "evidence_text": line.evidence_text,
        }
        for line in lines
    ]


def sweeps_document(sweeps: Sequence[Sweep], lines: Sequence[RunLine], *, dry_run: bool) -> dict[str, Any]:
    """Return sweeps, or what they would be, with the runs that were or would be acted on."""
    names = ("kind", "phase", "scanned", "acted", "conflicts", "deferred", "finalized", "errors")
    return {
        "dry_run": dry_run,
        "sweeps": [{**{name: getattr(row, name) for name in names}, "reasons": dict(row.counts)} for row in sweeps],
        "reasons": dict(sum((Counter(row.counts) for row in sweeps), Counter[str]())),
        "runs": runs_document(lines),
    }


def preview_document(judged: JudgedRuns) -> dict[str, Any]:
    """Return what would be done under another policy."""
    return {"reasons": dict(judged.reasons), "runs": runs_document(judged.acting.lines)}


def policy_document(kind: str, values: Mapping[str, EffectiveValue]) -> dict[str, Any]:
    """Return the policy of a kind: each value with where it comes from."""
    return {
        "kind": kind,
        "policy": {name: {"value": to_plain(each.value), "source": each.source} for name, each in values.items()},
    }


def run_document(line: RunLine, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one run explained, with its history, newest first."""
    return {"reasons": {line.reason: 1}, "runs": runs_document([line]), "history": [dict(each) for each in history]}


def message_document(sentences: Sequence[str], *, succeeded: bool) -> dict[str, Any]:
    """Return the sentences that a command has printed, and whether it succeeded."""
    return {"succeeded": succeeded, "message": list(sentences)}


def whole_seconds(duration: timedelta | None) -> int | None:
    """Return a duration in whole seconds."""
    return None if duration is None else int(duration.total_seconds())
