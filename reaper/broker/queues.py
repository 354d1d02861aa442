"""Is a task's message still in the broker? Looked up without disturbing anything, and honest about what was not seen.

Redis is read in the order in which a message travels: the queue's lists, then what was delivered and not acknowledged.
RabbitMQ shows a message only to consumers: it is asked how many wait. Other transports cannot be looked into.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from time import monotonic
from typing import Any, NamedTuple

from kombu import Connection

from reaper.broker.connection import Broker, format_error
from reaper.exceptions import BrokerUnavailable, ScanIncomplete

# Messages read at a time, at first and at most; fewer where they are large: Redis serves nobody else meanwhile.
FIRST_PAGE, PAGE, PAGE_BYTES = 10, 1_000, 2_000_000
# Messages read per look; a queue that would exceed it is left unread.
MAX_MESSAGES = 200_000
# Seconds that one answer of Redis may take once the look has begun.
REDIS_TIMEOUT_S = 1.0

# How a message begins that kombu and Celery wrote, read as strictly as JSON; any other is parsed whole, which takes
# ten times as long. Children carry their parent's id as well: only the place tells them apart.
FAST_HEADER = re.compile(
    rb'\[?\{"body": "[^"\\]*", "content-encoding": "[^"\\]*", "content-type": "[^"\\]*", '
    rb'"headers": \{"lang": "[^"\\]*", "task": "[^"\\]*", "id": "([^"\\]+)"'
)


class QueueSnapshot(NamedTuple):
    """What one look into the broker's queues found. Never act on one look: a message on its way is in neither place."""

    # The tasks whose messages wait in one of the queues, and those that were delivered and not acknowledged.
    waiting: frozenset[str] = frozenset()
    unacked: frozenset[str] = frozenset()
    # Messages that wait, and consumers, by queue; None or not there: not known.
    depth: Mapping[str, int | None] = {}
    consumers: Mapping[str, int | None] = {}
    # The queues in which a message may be that was not seen, and why: one sentence, '' when there is none.
    incomplete_queues: frozenset[str] = frozenset()
    error: str = ""
    # Messages that name no task. One of them may be any task's: it leaves its queue unclear.
    unread: int = 0

    @property
    def complete(self) -> bool:
        """True when a task in neither set has no message in any of these queues."""
        return not self.incomplete_queues

    def absent(self, task_id: str, queues: Collection[str]) -> bool | None:
        """Whether the broker has no message of the task, which could be in these queues; None: cannot be known.

        RabbitMQ does not show what it has delivered: there, a consumer that did not say otherwise may still hold it.
        """
        if task_id in self.waiting or task_id in self.unacked:
            return False
        seen = queues and all(queue in self.depth and queue not in self.incomplete_queues for queue in queues)
        return True if seen else None


def scan_queues(broker: Broker, queues: Collection[str], seconds: float = 2.0) -> QueueSnapshot:
    """Look for the messages in these queues for about that long. Never raises: what went wrong is in the answer."""
    sight = QueueScan(queues, monotonic() + seconds)
    try:
        broker.ask(sight.take)
    except (BrokerUnavailable, ValueError) as error:
        sight.fault(str(error))
    return sight.result()


class QueueScan:
    """What has been seen so far. A queue is unclear until it was read to its end: an error leaves it so."""

    def __init__(self, queues: Collection[str], deadline: float) -> None:
        self.queues, self.deadline = list(dict.fromkeys(queues)), deadline
        self.waiting: set[str] = set()
        self.unacked: set[str] = set()
        self.depth: dict[str, int | None] = dict.fromkeys(self.queues)
        self.consumers: dict[str, int | None] = dict.fromkeys(self.queues)
        self.clear: set[str] = set()
        self.delivered_seen = False
        self.unread = 0
        self.error = ""

    def take(self, connection: Connection) -> None:
        """Look into the broker behind the connection."""
        kind = connection.transport.driver_type
        try:
            if kind == "redis":
                scan_redis(self, connection)
            elif kind == "amqp":
                scan_amqp(self, connection)
            else:
                self.fault(f"the {kind} transport cannot be looked into")
        except ScanIncomplete as why:
            self.fault(str(why))
        # Not what a broker that has gone raises: permissions, a key of another type.
        except connection.channel_errors as error:
            self.fault(f"the broker refused the look: {format_error(error)}")

    def add(self, queues: Collection[str]) -> None:
        """Look into these queues as well."""
        for queue in sorted(set(queues) - {*self.queues}):
            self.queues.append(queue)
            self.depth[queue] = self.consumers[queue] = None

    def fault(self, sentence: str) -> None:
        """Note why something is unclear; the first reason is the one that is told."""
        self.error = self.error or sentence

    def in_time(self) -> None:
        """Raise `Unseen` when the time is up."""
        if monotonic() > self.deadline:
            raise ScanIncomplete("the time was up before everything was seen")

    def note(self, found: set[str], raws: Sequence[bytes]) -> bool:
        """Add the messages' tasks to those found; False when some name none."""
        before = self.unread
        for raw in raws:
            try:
                found.add(task_id_in(raw))
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                self.unread += 1
                self.fault("a message could not be decoded: it may be any task's")
        return self.unread == before

    def result(self) -> QueueSnapshot:
        """Return what was seen."""
        unclear = set(self.queues) - self.clear if self.delivered_seen else set(self.queues)
        sets = frozenset(self.waiting), frozenset(self.unacked)
        return QueueSnapshot(
            *sets, self.depth, self.consumers, frozenset(unclear), self.error if unclear else "", self.unread
        )


def scan_redis(sight: QueueScan, connection: Connection) -> None:
    """Read the queues' lists, then what was delivered, through the client that kombu itself counts messages with."""
    with connection.channel() as channel:
        # Set before the channel makes its pool: a Redis that hangs half-way must not cost more.
        channel.socket_timeout, channel.retry_on_timeout = REDIS_TIMEOUT_S, None
        with channel.conn_or_acquire() as client:
            sight.add(bound_queues(channel, client))
            lists = {queue: list_names(channel, queue) for queue in sight.queues}
            sizes, delivered = count_messages(client, lists, channel.unacked_key)
            sight.depth.update({queue: sum(sizes[queue]) for queue in sight.queues})
            left = MAX_MESSAGES - delivered
            for queue in sorted(sight.queues, key=lambda queue: sum(sizes[queue])):
                left -= sum(sizes[queue])
                if left < 0:
                    sight.fault(f"{queue} holds {sum(sizes[queue]):,} messages, more than are read in one look")
                    continue
                whole = [read_list(sight, client, channel.global_keyprefix, name) for name in lists[queue]]
                if all(whole):
                    sight.clear.add(queue)
            sight.delivered_seen = read_delivered(sight, client, channel.global_keyprefix, channel.unacked_key)


def bound_queues(channel: Any, client: Any) -> set[str]:
    """Return the queues that kombu has ever bound: a run may wait in one that no worker of today consumes."""
    prefix, found = channel.global_keyprefix, set()
    for key in client.scan_iter(prefix + channel.keyprefix_queue % "*", count=PAGE):
        name = key.decode().removeprefix(prefix)
        # The workers' own mail is in no queue of tasks, and its bindings outlive them.
        if not name.endswith(("pidbox", "celeryev")):
            # kombu's client prefixes SMEMBERS itself.
            found |= {member.decode().rpartition(channel.sep)[2] for member in client.smembers(name)}
    return found


def list_names(channel: Any, queue: str) -> list[str]:
    """Return the names of the lists that are one queue: one for each step of the priority."""
    names = (f"{queue}{channel.sep}{step}" if step else queue for step in channel.priority_steps)
    return list(dict.fromkeys(names))


def count_messages(client: Any, lists: Mapping[str, Sequence[str]], unacked: str) -> tuple[dict[str, list[int]], int]:
    """Return the length of each queue's lists, and how many messages are delivered and not acknowledged."""
    with client.pipeline(transaction=False) as pipe:
        for name in (name for names in lists.values() for name in names):
            pipe.llen(name)
        *lengths, delivered = pipe.hlen(unacked).execute()
    ahead = iter(lengths)
    return {queue: [next(ahead) for _ in names] for queue, names in lists.items()}, delivered


def read_list(sight: QueueScan, client: Any, prefix: str, name: str) -> bool:
    """Read one list from its head: what is pushed meanwhile only shifts the rest towards the reader."""
    whole, start, size = True, 0, FIRST_PAGE
    while True:
        sight.in_time()
        # kombu's client prefixes LLEN but not LRANGE. In one transaction the two must agree: should that ever
        # change, the difference shows it.
        with client.pipeline() as pipe:
            rows, length = pipe.lrange(prefix + name, start, start + size - 1).llen(name).execute()
        if len(rows) < min(size, length - start):
            raise ScanIncomplete(f"{name} holds {length:,} messages, of which Redis shows {start + len(rows):,}")
        whole &= sight.note(sight.waiting, rows)
        start += len(rows)
        if start >= length:
            return whole
        size = next_page_size(rows)


def read_delivered(sight: QueueScan, client: Any, prefix: str, name: str) -> bool:
    """Read the messages that were delivered and not acknowledged: one hash for all queues of the database."""
    whole, seen, fewest, cursor, size = True, 0, MAX_MESSAGES, None, FIRST_PAGE
    while cursor != 0:
        sight.in_time()
        with client.pipeline() as pipe:
            (cursor, entries), length = pipe.hscan(prefix + name, cursor or 0, count=size).hlen(name).execute()
        rows = list(entries.values())
        whole &= sight.note(sight.unacked, rows)
        seen, fewest, size = seen + len(rows), min(fewest, length), next_page_size(rows) if rows else size
    if fewest and not seen:
        raise ScanIncomplete(f"{name} holds {fewest:,} messages, of which Redis shows none")
    return whole


def next_page_size(rows: Sequence[bytes]) -> int:
    """Return how many messages make a page, if they are as large as these."""
    mean = 1 + sum(map(len, rows)) // max(1, len(rows))
    return max(1, min(PAGE, PAGE_BYTES // mean))


def task_id_in(raw: bytes) -> str:
    """Return the task id of a message, as it waits or, with its exchange and routing key, as it was delivered.

    Raises one of several errors when it names none.
    """
    begun = FAST_HEADER.match(raw)
    if begun and raw.endswith((b"}", b"]")):
        return begun[1].decode()
    message = json.loads(raw)
    task_id = (message[0] if isinstance(message, list) else message)["headers"]["id"]
    if not task_id or not isinstance(task_id, str):
        raise TypeError("a task id is a text")
    return task_id


def scan_amqp(sight: QueueScan, connection: Connection) -> None:
    """Ask how many messages wait in each queue. With none, none of them is any task's."""
    # What is delivered is not shown, and not a reason to wait: the consumers say what they hold.
    sight.delivered_seen = True
    for queue in sight.queues:
        sight.in_time()
        # A refusal closes the channel that it came over.
        channel = connection.channel()
        try:
            found = channel.queue_declare(queue, passive=True)
            sight.depth[queue], sight.consumers[queue] = found.message_count, found.consumer_count
        except connection.channel_errors as error:
            # The same code is given for a queue whose node is down: only a queue that is not there is empty.
            if "no queue" not in str(error):
                sight.fault(f"{queue} cannot be looked into: {format_error(error)}")
                continue
            sight.depth[queue] = sight.consumers[queue] = 0
        finally:
            connection.maybe_close_channel(channel)
        if sight.depth[queue]:
            sight.fault(f"{queue} holds {sight.depth[queue]:,} messages, which RabbitMQ shows to consumers only")
        else:
            sight.clear.add(queue)
