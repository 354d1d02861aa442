"""Ask the workers over the broker which tasks they hold: a second opinion beside their heartbeats, within seconds."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, NamedTuple
from uuid import uuid4

from kombu import Connection, Consumer

from reaper.broker.connection import Broker
from reaper.exceptions import BrokerUnavailable

# Each command covers something that the others do not: query_task also finds received tasks that no list has.
COMMANDS = ("active", "reserved", "scheduled", "query_task")
# Seconds that Redis waits for a reply at a time: a reader that is closed while it waits ends its turn first.
REPLY_POLL_S = 0.2


class InspectionResult(NamedTuple):
    """What the workers answered. Silence proves nothing: a busy solo pool, a stopped or draining worker is silent too.

    Workers are named by node name ("celery@host"), tasks by id.
    """

    holders: Mapping[str, str] = {}
    """The worker that reports having the task, by task; preferably the one that executes it."""
    active: Mapping[str, str] = {}
    """The worker that reports executing the task, by task."""
    responded_fully: frozenset[str] = frozenset()
    """The workers that answered every command."""
    responded: frozenset[str] = frozenset()
    """The workers that answered any command."""
    duplicate_nodes: frozenset[str] = frozenset()
    """The names under which more than one worker answered: a task that one does not name may be held by the other."""
    malformed: int = 0
    """Number of replies that could not be parsed."""
    error: str = ""
    """Why the workers could not be asked: one sentence, '' when they were, whether or not any answered."""


def inspect_workers(
    broker: Broker, task_ids: Sequence[str], expected: Collection[str], seconds: float = 2.0
) -> InspectionResult:
    """Ask all workers at once which tasks they hold, and by `query_task` for these task ids.

    Return when the expected nodes, each as often as it is listed, have answered everything, or after `seconds` when
    some are silent or none was expected. Raises nothing: what went wrong is in the result's `error`.
    """
    replies = Replies(expected)

    def ask(connection: Connection) -> None:
        arguments = {"query_task": {"ids": list(task_ids)}}
        replies.gather(broker, connection, arguments, seconds)

    try:
        broker.call(ask)
    except (BrokerUnavailable, ValueError) as error:
        return replies.result(str(error))
    return replies.result()


def parse_reply(command: str, reply: Any) -> list[tuple[str, bool]]:
    """Return the task ids in one worker's reply to a command, and whether each is executing.

    Raises ValueError, LookupError, TypeError or AttributeError for anything that is no such reply.
    """
    if command == "query_task":
        return [(task_id, state == "active") for task_id, (state, _) in reply.items()]
    if not isinstance(reply, list):
        raise TypeError("the reply is not a list of tasks")
    requests = [each["request"] for each in reply] if command == "scheduled" else reply
    return [(request["id"], command == "active") for request in requests]


class Replies:
    """The replies so far, by command."""

    def __init__(self, expected: Collection[str]) -> None:
        """Expect these nodes to answer, each as often as it is listed."""
        self.expected = Counter(expected)
        self.commands = {str(uuid4()): command for command in COMMANDS}
        self.responses: dict[str, Counter[str]] = {command: Counter() for command in COMMANDS}
        self.holders: dict[str, str] = {}
        self.active: dict[str, str] = {}
        self.malformed = 0

    def gather(self, broker: Broker, connection: Connection, arguments: Mapping[str, Any], seconds: float) -> None:
        """Broadcast every command, and take the replies until all are there or the time is up."""
        deadline = monotonic() + seconds
        mailbox = broker.mailbox()
        with connection.channel() as channel:
            channel.brpop_timeout = REPLY_POLL_S
            queue = mailbox.reply_queue(channel)
            options = {"accept": mailbox.accept, "on_decode_error": self.on_decode_error}
            try:
                with Consumer(channel, [queue], callbacks=[self.on_reply], no_ack=True, **options):
                    for ticket, command in self.commands.items():
                        mailbox._publish(command, arguments.get(command), None, ticket, channel, seconds)
                    while not self.is_complete() and (left := deadline - monotonic()) > 0:
                        self.wait_for_reply(connection, left)
            finally:
                queue.delete()

    def wait_for_reply(self, connection: Connection, seconds: float) -> None:
        """Take one reply, if one arrives in time."""
        try:
            connection.drain_events(timeout=seconds)
        except TimeoutError:
            pass

    def is_complete(self) -> bool:
        """Return whether every expected node has answered every command."""
        return bool(self.expected) and all(self.expected <= nodes for nodes in self.responses.values())

    def on_decode_error(self, message: Any, error: Exception) -> None:
        """Count a reply that cannot be decoded."""
        self.malformed += 1

    def on_reply(self, body: Any, message: Any) -> None:
        """Record one worker's reply to one command. Ignore a late reply to an earlier inspection."""
        command = self.commands.get(message.headers.get("ticket"))
        if command is None:
            return
        try:
            ((node, reply),) = body.items()
            tasks = dict(parse_reply(command, reply))
        except (ValueError, LookupError, TypeError, AttributeError):
            self.malformed += 1
            return
        self.responses[command][str(node)] += 1
        self.holders.update(dict.fromkeys(tasks, str(node)))
        self.active.update({task_id: str(node) for task_id, is_executing in tasks.items() if is_executing})

    def result(self, error: str = "") -> InspectionResult:
        """Return the result of the replies so far; `error` is why there are no more."""
        nodes = [frozenset(counted) for counted in self.responses.values()]
        return InspectionResult(
            holders={**self.holders, **self.active},
            active=self.active,
            responded_fully=frozenset.intersection(*nodes),
            responded=frozenset().union(*nodes),
            duplicate_nodes=frozenset(duplicates(self.responses.values())),
            malformed=self.malformed,
            error=error,
        )


def duplicates(counters: Iterable[Counter[str]]) -> set[str]:
    """Return what any of the counters has counted more than once."""
    return {each for counted in counters for each, count in counted.items() if count > 1}
