"""What do the workers say that they hold? The second opinion, asked over the broker, within bounds."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from time import monotonic
from typing import Any, NamedTuple
from uuid import uuid4

from kombu import Connection, Consumer

from reaper.broker.connection import Broker
from reaper.exceptions import BrokerUnavailable

# Each knows something that the others do not: query_task also what is received and in none of the lists.
COMMANDS = ("active", "reserved", "scheduled", "query_task")


class InspectionResult(NamedTuple):
    """What the workers answered. Silence is no death: a busy solo pool, a stopped or draining worker is silent too."""

    # The node name of the worker that says it has the task, by task id; and of those the ones that are executing.
    holding: Mapping[str, str] = {}
    active: Mapping[str, str] = {}
    # The node names that answered every question; and those under which more than one worker answered: what these do
    # not name may be with the other one.
    responded_fully: frozenset[str] = frozenset()
    # Those that answered any of them.
    heard: frozenset[str] = frozenset()
    duplicate_nodes: frozenset[str] = frozenset()
    # Replies that made no sense.
    unread: int = 0
    # Why nobody could be asked: one sentence, '' when everybody was, whoever answered.
    error: str = ""


def inspect_workers(
    broker: Broker, task_ids: Sequence[str], expected: Collection[str], seconds: float = 2.0
) -> InspectionResult:
    """Ask all workers at once. Never raises: what went wrong is in the answer.

    It ends when the expected nodes, each as often as it is named, have answered everything, and after `seconds` when
    some are silent or none was expected.
    """
    replies = Replies(expected)

    def question(connection: Connection) -> None:
        arguments = {"query_task": {"ids": list(task_ids)}}
        replies.gather(broker, connection, arguments, seconds)

    try:
        broker.ask(question)
    except (BrokerUnavailable, ValueError) as error:
        return replies.result(str(error))
    return replies.result()


def parse_reply(command: str, said: Any) -> list[tuple[str, bool]]:
    """Return the task ids in a worker's answer, and whether they are executing. Raises when it is no such answer."""
    if command == "query_task":
        return [(task_id, state == "active") for task_id, (state, _) in said.items()]
    if not isinstance(said, list):
        raise TypeError("an answer is a list of tasks")
    requests = [each["request"] for each in said] if command == "scheduled" else said
    return [(request["id"], command == "active") for request in requests]


class Replies:
    """The replies so far, by command."""

    def __init__(self, expected: Collection[str]) -> None:
        self.expected = Counter(expected)
        self.commands = {str(uuid4()): command for command in COMMANDS}
        self.heard: dict[str, Counter[str]] = {command: Counter() for command in COMMANDS}
        self.holding: dict[str, str] = {}
        self.active: dict[str, str] = {}
        self.unread = 0

    def gather(self, broker: Broker, connection: Connection, arguments: Mapping[str, Any], seconds: float) -> None:
        """Broadcast every command, and take the replies until all are there or the time is up."""
        deadline = monotonic() + seconds
        mailbox = broker.mailbox()
        with connection.channel() as channel:
            # A reader that is closed while it waits for a message waits for its turn to end.
            channel.brpop_timeout = 0.2
            queue = mailbox.reply_queue(channel)
            options = {"accept": mailbox.accept, "on_decode_error": self.on_decode_error}
            try:
                with Consumer(channel, [queue], callbacks=[self.note], no_ack=True, **options):
                    for ticket, command in self.commands.items():
                        mailbox._publish(command, arguments.get(command), None, ticket, channel, seconds)
                    while not self.complete() and (left := deadline - monotonic()) > 0:
                        self.wait(connection, left)
            finally:
                queue.delete()

    def wait(self, connection: Connection, seconds: float) -> None:
        """Take one reply, if one comes."""
        try:
            connection.drain_events(timeout=seconds)
        except TimeoutError:
            pass

    def complete(self) -> bool:
        """True when all who are expected have answered every command."""
        return bool(self.expected) and all(self.expected <= heard for heard in self.heard.values())

    def on_decode_error(self, message: Any, error: Exception) -> None:
        """Count a reply that cannot be decoded."""
        self.unread += 1

    def note(self, body: Any, message: Any) -> None:
        """Take one reply: what one worker says to one command. A late one, to an earlier question, is none."""
        command = self.commands.get(message.headers.get("ticket"))
        if command is None:
            return
        try:
            ((node, said),) = body.items()
            held = dict(parse_reply(command, said))
        except (ValueError, LookupError, TypeError, AttributeError):
            self.unread += 1
            return
        self.heard[command][str(node)] += 1
        self.holding.update(dict.fromkeys(held, str(node)))
        self.active.update({task_id: str(node) for task_id, executing in held.items() if executing})

    def result(self, error: str = "") -> InspectionResult:
        """Return what was heard."""
        answered = frozenset.intersection(*(frozenset(heard) for heard in self.heard.values()))
        doubled = {node for heard in self.heard.values() for node, times in heard.items() if times > 1}
        holding = {**self.holding, **self.active}
        heard = frozenset().union(*self.heard.values())
        return InspectionResult(holding, self.active, answered, heard, frozenset(doubled), self.unread, error)
