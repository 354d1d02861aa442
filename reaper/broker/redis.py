"""Read a Redis broker's messages without changing anything.

The order is that in which a message travels: first the queues' lists, then the messages that were delivered and not
acknowledged. A message that moves on during the scan is then found at least once.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kombu import Connection

from reaper.broker.snapshot import QueueScan
from reaper.exceptions import ScanIncomplete

# Messages per read: few at first, then as many as fit into PAGE_BYTES. Redis serves no other client during a read.
FIRST_PAGE = 10
PAGE = 1_000
PAGE_BYTES = 2_000_000
# Messages read in one scan; a queue that would exceed it is not read.
MAX_MESSAGES = 200_000
# Seconds that a single reply of Redis may take during a scan.
REDIS_TIMEOUT_S = 1.0


class MessageCounts(NamedTuple):
    """How many messages a Redis broker holds."""

    by_queue: Mapping[str, Sequence[int]]
    """The length of each of a queue's lists, by queue name."""
    delivered: int
    """Messages of all queues that were delivered and not acknowledged."""


def scan_redis(scan: QueueScan, connection: Connection) -> None:
    """Read the queues' lists, then the delivered messages, through the client with which kombu itself counts messages.

    Raises `ScanIncomplete` when the time is up, or when Redis shows fewer messages than it counts.
    """
    with connection.channel() as channel:
        # Set before the channel makes its pool: a Redis that hangs half-way must not cost more.
        channel.socket_timeout = REDIS_TIMEOUT_S
        channel.retry_on_timeout = None
        with channel.conn_or_acquire() as client:
            scan.add_queues(bound_queues(channel, client))
            lists = {queue: list_names(channel, queue) for queue in scan.queues}
            counts = count_messages(client, lists, channel.unacked_key)
            totals = {queue: sum(counts.by_queue[queue]) for queue in scan.queues}
            scan.depth.update(totals)
            remaining = MAX_MESSAGES - counts.delivered
            for queue in sorted(scan.queues, key=totals.__getitem__):
                remaining -= totals[queue]
                if remaining < 0:
                    scan.record_problem(f"{queue} holds {totals[queue]:,} messages, too many to read in one scan")
                    continue
                complete = [read_list(scan, client, channel.global_keyprefix, name) for name in lists[queue]]
                if all(complete):
                    scan.complete_queues.add(queue)
            scan.delivered_complete = read_delivered(scan, client, channel.global_keyprefix, channel.unacked_key)


def bound_queues(channel: Any, client: Any) -> set[str]:
    """Return every queue that kombu has ever bound: a run may wait in one that no worker consumes today."""
    prefix = channel.global_keyprefix
    found: set[str] = set()
    for key in client.scan_iter(prefix + channel.keyprefix_queue % "*", count=PAGE):
        name = key.decode().removeprefix(prefix)
        # The workers' mailboxes are no task queues, and their bindings outlive them.
        if not name.endswith(("pidbox", "celeryev")):
            # kombu's client prefixes SMEMBERS itself.
            found |= {member.decode().rpartition(channel.sep)[2] for member in client.smembers(name)}
    return found


def list_names(channel: Any, queue: str) -> list[str]:
    """Return the names of the Redis lists that make up a queue: one for each priority step."""
    names = (f"{queue}{channel.sep}{step}" if step else queue for step in channel.priority_steps)
    return list(dict.fromkeys(names))


def count_messages(client: Any, lists: Mapping[str, Sequence[str]], unacked_key: str) -> MessageCounts:
    """Return the length of each list, and the number of delivered messages."""
    with client.pipeline(transaction=False) as pipe:
        for name in (name for names in lists.values() for name in names):
            pipe.llen(name)
        *lengths, delivered = pipe.hlen(unacked_key).execute()
    remaining = iter(lengths)
    return MessageCounts({queue: [next(remaining) for _ in names] for queue, names in lists.items()}, delivered)


def read_list(scan: QueueScan, client: Any, prefix: str, name: str) -> bool:
    """Read one list from its head; return whether every message names a task.

    A message that is pushed during the scan shifts the rest towards the end, where the reader has yet to come.
    """
    complete = True
    start = 0
    size = FIRST_PAGE
    while True:
        scan.check_deadline()
        # kombu's client prefixes LLEN but not LRANGE. Within one transaction the two must agree: should the prefixing
        # ever change, the difference shows it.
        with client.pipeline() as pipe:
            messages, length = pipe.lrange(prefix + name, start, start + size - 1).llen(name).execute()
        if len(messages) < min(size, length - start):
            raise ScanIncomplete(f"{name} holds {length:,} messages, of which Redis shows {start + len(messages):,}")
        complete &= scan.record_messages(scan.waiting, messages)
        start += len(messages)
        if start >= length:
            return complete
        size = next_page_size(messages)


def read_delivered(scan: QueueScan, client: Any, prefix: str, name: str) -> bool:
    """Read the delivered messages, one hash for all queues of the database; return whether each names a task."""
    complete = True
    read = 0
    fewest = MAX_MESSAGES
    cursor = None
    size = FIRST_PAGE
    while cursor != 0:
        scan.check_deadline()
        with client.pipeline() as pipe:
            (cursor, entries), length = pipe.hscan(prefix + name, cursor or 0, count=size).hlen(name).execute()
        messages = list(entries.values())
        complete &= scan.record_messages(scan.unacked, messages)
        read += len(messages)
        fewest = min(fewest, length)
        size = next_page_size(messages) if messages else size
    if fewest and not read:
        raise ScanIncomplete(f"{name} holds {fewest:,} messages, of which Redis shows none")
    return complete


def next_page_size(messages: Sequence[bytes]) -> int:
    """Return how many messages of the same average size as these to read at a time."""
    mean = 1 + sum(map(len, messages)) // max(1, len(messages))
    return max(1, min(PAGE, PAGE_BYTES // mean))
