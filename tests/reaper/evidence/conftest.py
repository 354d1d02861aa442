"""The workers' answers to an inspection, as a test sets them."""

import pytest

from reaper.evidence import sources
from reaper.workers.inspect import InspectionResult


@pytest.fixture
def answers(monkeypatch):
    """A function by which the workers' answers to an inquiry are set; those who are asked are noted in `asked`."""

    def answer(**said):
        def inquire(link, task_ids, expected, seconds):
            answer.asked.append((list(task_ids), expected, seconds))
            return InspectionResult(**said)

        monkeypatch.setattr(sources, "inspect_workers", inquire)

    answer.asked = []
    answer()
    return answer
