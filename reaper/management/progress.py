"""The progress bar of subcommands that judge many runs."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from reaper.adapters import RunAdapter
from reaper.core.facts import UNFINISHED_PHASES
from reaper.management.context import Context
from reaper.reports.judged import ignore_progress


def show_progress(context: Context, label: str, adapters: Sequence[RunAdapter]) -> AbstractContextManager[Any]:
    """Show on a terminal how many unfinished runs are done; yields a function to call with how many more are."""
    if context.as_json or context.console.is_plain:
        return nullcontext(ignore_progress)
    total = sum(adapter.summarize(phase).count for adapter in adapters for phase in UNFINISHED_PHASES)
    return context.console.progress(label, total)
