"""What one scan of the broker's queues found, and what it has found so far while it runs.

A queue counts as incomplete until it was read to its end, so an error half-way leaves it incomplete.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from time import monotonic
from typing import NamedTuple

from reaper.exceptions import ScanIncomplete

# The beginning of a message as kombu and Celery write it, matched as strictly as JSON. Any other message is parsed
# whole, which takes ten times as long. The position matters: child tasks carry their parent's id in another header.
FAST_HEADER = re.compile(
    rb'\[?\{"body": "[^"\\]*", "content-encoding": "[^"\\]*", "content-type": "[^"\\]*", '
    rb'"headers": \{"lang": "[^"\\]*", "task": "[^"\\]*", "id": "([^"\\]+)"'
)


class QueueSnapshot(NamedTuple):
    """The result of one scan. Never act on a single one: a message in transit is in neither of its sets."""

    waiting: frozenset[str] = frozenset()
    """Task ids of the messages that wait in one of the queues."""
    unacked: frozenset[str] = frozenset()
    """Task ids of the messages that were delivered to a worker and not acknowledged. Redis only."""
    depth: Mapping[str, int | None] = {}
    """Number of waiting messages by queue name; None or missing where it is not known."""
    consumers: Mapping[str, int | None] = {}
    """Number of consumers by queue name; None or missing where it is not known. RabbitMQ only."""
    incomplete_queues: frozenset[str] = frozenset()
    """Queues that may hold a message that the scan did not read."""
    error: str = ""
    """Why there are incomplete queues: one sentence, '' when there are none."""
    malformed: int = 0
    """Number of messages without a readable task id. Any task may own one, so it makes its queue incomplete."""

    @property
    def complete(self) -> bool:
        """True when a task in neither set has no message in any of the scanned queues."""
        return not self.incomplete_queues

    def is_absent(self, task_id: str, queues: Collection[str]) -> bool | None:
        """Return whether none of these queues holds a message of the task; None when that cannot be known.

        RabbitMQ does not show delivered messages: there, a consumer that did not deny it may still hold one.
        """
        if task_id in self.waiting or task_id in self.unacked:
            return False
        scanned = queues and all(queue in self.depth and queue not in self.incomplete_queues for queue in queues)
        return True if scanned else None


class QueueScan:
    """The state of a running scan. The reader of each transport fills it; `result` ends it."""

    def __init__(self, queues: Collection[str], deadline: float) -> None:
        """Prepare to scan these queues until `deadline`, in seconds of `time.monotonic`."""
        self.queues = list(dict.fromkeys(queues))
        self.deadline = deadline
        self.waiting: set[str] = set()
        self.unacked: set[str] = set()
        self.depth: dict[str, int | None] = dict.fromkeys(self.queues)
        self.consumers: dict[str, int | None] = dict.fromkeys(self.queues)
        self.complete_queues: set[str] = set()
        self.delivered_complete = False
        self.malformed = 0
        self.error = ""

    def add_queues(self, queues: Collection[str]) -> None:
        """Scan these queues as well."""
        for queue in sorted(set(queues) - {*self.queues}):
            self.queues.append(queue)
            self.depth[queue] = None
            self.consumers[queue] = None

    def record_problem(self, sentence: str) -> None:
        """Record why a queue is incomplete; only the first sentence is kept."""
        self.error = self.error or sentence

    def check_deadline(self) -> None:
        """Raise `ScanIncomplete` when the time is up."""
        if monotonic() > self.deadline:
            raise ScanIncomplete("the scan timed out before every queue was read")

    def record_messages(self, task_ids: set[str], messages: Sequence[bytes]) -> bool:
        """Add the task id of each raw message to the set; return False when one of them has none."""
        before = self.malformed
        for raw in messages:
            try:
                task_ids.add(task_id_in(raw))
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                self.malformed += 1
                self.record_problem("a message could not be decoded; it may belong to any task")
        return self.malformed == before

    def result(self) -> QueueSnapshot:
        """Return what was found."""
        incomplete = set(self.queues)
        if self.delivered_complete:
            incomplete -= self.complete_queues
        return QueueSnapshot(
            waiting=frozenset(self.waiting),
            unacked=frozenset(self.unacked),
            depth=self.depth,
            consumers=self.consumers,
            incomplete_queues=frozenset(incomplete),
            error=self.error if incomplete else "",
            malformed=self.malformed,
        )


def task_id_in(raw: bytes) -> str:
    """Return the task id of a raw message: as it waits, or as it was delivered (with its exchange and routing key).

    Raises ValueError, LookupError, TypeError, AttributeError or RecursionError for a message that has none.
    """
    header = FAST_HEADER.match(raw)
    if header and raw.endswith((b"}", b"]")):
        return header[1].decode()
    message = json.loads(raw)
    task_id = (message[0] if isinstance(message, list) else message)["headers"]["id"]
    if not task_id or not isinstance(task_id, str):
        raise TypeError("the task id is not a string")
    return task_id
