"""The progress bar of subcommands that judge many runs."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from reaper.adapters import RunAdapter
from reaper.management.context import Context
from reaper.reports.judged import PHASES, ignore_progress


def show_progress(context: Context, label: str, adapters: Sequence[RunAdapter]) -> AbstractContextManager[Any]:
    """Show on a terminal how many of the unfinished runs are done; yields a function that takes how many more are."""
    if context.as_json or context.console.is_plain:
        return nullcontext(ignore_progress)
    total = sum(adapter.summarize(phase).count for adapter in adapters for phase in PHASES)
    return context.console.progress(label, total)
