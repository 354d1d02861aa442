"""The safeguards that limit a sweep: its counts -> `SweepError`, or None where nothing holds it back."""

from collections.abc import Mapping
from datetime import datetime

from reaper.adapters import RunAdapter
from reaper.controls.modes import state_of
from reaper.core import brake
from reaper.core.reasons import Reason
from reaper.core.sweep_errors import ErrorCode, SweepError
from reaper.evidence.collector import EvidenceCollector


def find_silence_hold(counts: Mapping[str, int], collector: EvidenceCollector) -> SweepError | None:
    """Return the hold on decisions by absence, if workers fell silent together and that left runs undecided.

    `counts`: number of runs by reason.
    """
    if not counts.get(Reason.INCONCLUSIVE) or not (silence := collector.mass_silence):
        return None
    suspended = "absence-based decisions are suspended until a worker consumes the queue again"
    return SweepError(ErrorCode.MASS_SILENCE, f"{silence}: {suspended}")


def find_volume_hold(adapter: RunAdapter, scope: str, to_act: int, unfinished: int, now: datetime) -> SweepError | None:
    """Return the hold that limits the sweep to a few runs, if `to_act` would be most of the `unfinished` ones."""
    if not brake.exceeds_limit(to_act, unfinished) or state_of(adapter, now).released:
        return None
    share = f"{to_act} of {unfinished} {scope} runs would be acted on at once"
    limit = f"limited to {brake.HELD_LIMIT} per sweep; to lift: manage.py reaper release {adapter.kind}"
    return SweepError(ErrorCode.BRAKE_ENGAGED, f"{share}, {limit}")
