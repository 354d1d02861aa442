"""The broker, asked within bounds: a sweep must end also when the broker hangs."""

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from amqp.exceptions import FrameSyntaxError
from celery import Celery, current_app
from kombu import Connection, Producer
from kombu.exceptions import OperationalError, SerializationError, SerializerNotInstalled
from kombu.pidbox import Mailbox

from reaper.adapters import Message
from reaper.exceptions import BrokerUnavailable

# A connection of the sweep's own, because one from Celery's pool whose Redis has died blocks until Redis is back,
# whatever its timeouts say. Seconds; one refused or hanging connection costs about 2 s, and a sweep pays it once.
# The first line is Redis's, the second RabbitMQ's, which takes a message only once it says so; each ignores the other.
TRANSPORT_TIMEOUTS = {
    **{"socket_timeout": 2, "socket_connect_timeout": 1, "max_retries": 0, "connect_retries_timeout": 1},
    **{"connect_timeout": 1, "read_timeout": 2, "write_timeout": 2, "confirm_publish": True},
}
# What a message raises that no broker could take; RabbitMQ's client packs a message's fields with struct.
ENCODING_ERRORS = (
    *(SerializationError, SerializerNotInstalled, FrameSyntaxError),
    *(LookupError, TypeError, ValueError, struct.error),
)

Answer = TypeVar("Answer")


def format_error(error: Exception) -> str:
    """Return an error as words; the time-outs of sockets have none of their own."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


class NonRetryingProducer(Producer):
    """A producer, and the pool that hands it out, that publishes at once or not at all.

    kombu's mailbox asks to retry without an end: a revoke would wait for a broker that has gone until it is back.
    """

    @contextmanager
    def acquire(self) -> Iterator[Self]:
        """Hand out this producer, as a pool does."""
        yield self

    def publish(self, *args: Any, **options: Any) -> Any:
        """Publish without a retry."""
        return super().publish(*args, **{**options, "retry": False})


class Broker:
    """One sweep's connection to the broker: opened when it is first needed, given up for the sweep when it fails."""

    def __init__(self, app: Celery | None = None) -> None:
        self.app = app or current_app
        self.error = ""
        self._connection: Any = None
        self._producer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._connection is not None:
            self._connection.release()

    def publish(self, task: str, message: Message, task_id: str) -> None:
        """Send one task. Raises `BrokerDown`, and ValueError for a message that no broker could take."""
        self._ask("did not take a message", partial(self._send, task, message, task_id))

    def revoke(self, task_ids: Sequence[str], *, terminate: bool = False, destination: Sequence[str] = ()) -> None:
        """Forbid the tasks to start, in one broadcast; `terminate` kills those that run. Raises `BrokerDown`.

        `destination` names the workers that it is for; without it, it is for all.
        """
        signal = {"terminate": True, "signal": "SIGKILL"} if terminate else {}
        arguments = {"task_id": list(task_ids), **signal}
        self._ask("did not take a message", lambda: self.mailbox().cast([*destination] or None, "revoke", arguments))

    def ask(self, question: Callable[[Connection], Answer]) -> Answer:
        """Return what the question finds out over the connection. Raises `BrokerDown`, and ValueError for a bug."""
        return self._ask("did not answer", lambda: question(self._connection))

    def mailbox(self) -> Mailbox:
        """Return the workers' mailbox on this connection, once there is one."""
        # Celery's control commands take a connection, but publish through its pool all the same.
        mailbox = self.app.control.mailbox(self._connection)
        mailbox.producer_pool = NonRetryingProducer(self._connection)
        return mailbox

    def _send(self, task: str, message: Message, task_id: str) -> None:
        options = {"retry": False, **message.options, "task_id": task_id, "producer": self._producer}
        self.app.send_task(task, message.args, message.kwargs, **options)

    def _ask(self, failure: str, what: Callable[[], Answer]) -> Answer:
        if self.error:
            raise BrokerUnavailable(self.error)
        try:
            self._connect()
        except Exception as error:
            raise self._down(failure, error) from error
        try:
            return what()
        # What a broken broker raises varies: kombu's errors, the client library's own, RuntimeError.
        except Exception as error:
            # On Redis, kombu takes any KeyError for a broken connection and says so.
            cause = error.__cause__ if isinstance(error, OperationalError) else error
            if isinstance(cause, ENCODING_ERRORS):
                raise ValueError(format_error(cause)) from error
            raise self._down(failure, error) from error

    def _down(self, failure: str, error: Exception) -> BrokerUnavailable:
        self.error = f"the broker {failure}: {format_error(error)}"
        return BrokerUnavailable(self.error)

    def _connect(self) -> None:
        if self._connection is None:
            options = {**self.app.conf.broker_transport_options, **TRANSPORT_TIMEOUTS}
            self._connection = self.app.connection_for_write(transport_options=options)
            self._connection.ensure_connection(max_retries=0, timeout=1)
            self._producer = self.app.amqp.Producer(self._connection, auto_declare=False)
