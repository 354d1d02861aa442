"""Print one run, its history, or one sweep."""

from collections.abc import Mapping, Sequence
from copy import copy
from datetime import datetime
from typing import Any

from reaper.core.explain import describe_decision, describe_evidence, describe_facts, describe_limits
from reaper.core.facts import NO_EVIDENCE
from reaper.core.policy import Policy
from reaper.management.console import Console
from reaper.models import Sweep
from reaper.reports.timeline import describe_event
from reaper.sweeps.judging import Verdict


def print_explanation(console: Console, judged: Verdict, policy: Policy, now: datetime) -> None:
    """Print a run's status, its evidence, the next action, and the limits of its phase."""
    run, decision, evidence = judged
    console.title(f"{run.kind}:{run.pk}")
    sentences = [
        describe_facts(run, now),
        "" if evidence is NO_EVIDENCE else f"Evidence: {describe_evidence(run, evidence, now)}.",
        describe_decision(run, decision, policy, now),
        describe_limits(run, policy),
    ]
    for sentence in filter(None, sentences):
        console.indented(sentence)


def print_history(console: Console, events: Sequence[Mapping[str, Any]]) -> None:
    """Print what was done to a run, and which late writes were rejected."""
    console.say()
    console.title("History")
    if not events:
        console.indented("The reaper has not acted on it, and no late write was rejected.")
    for event in events:
        console.indented(f"{event['created_at']:%Y-%m-%d %H:%M:%S %Z}  {describe_event(event)}")


def print_sweep(console: Console, sweep: Sweep, *, dry_run: bool) -> None:
    """Print a sweep in one line, without its problems."""
    figures = copy(sweep)
    figures.errors = []
    console.say(f"{'would sweep' if dry_run else 'swept'} {sweep.kind} {sweep.phase}: {figures.summary}")
