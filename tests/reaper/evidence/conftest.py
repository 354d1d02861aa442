"""The workers' answers to an inspection, as a test sets them."""

import pytest

from reaper.evidence import sources
from reaper.workers.inspect import InspectionResult


@pytest.fixture
def answers(monkeypatch):
    """A function that sets the workers' answers; `calls` has the arguments of every inspection."""

    def answer(**result):
        def inspect_workers(link, task_ids, expected, seconds):
            answer.calls.append((list(task_ids), expected, seconds))
            return InspectionResult(**result)

        monkeypatch.setattr(sources, "inspect_workers", inspect_workers)

    answer.calls = []
    answer()
    return answer
