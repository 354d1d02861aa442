"""The connection to the broker, with limits: a sweep must end even when the broker hangs."""

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

# kombu's transport options, in seconds. A refused or hanging connection costs about 2 s, and a sweep pays it once.
# Each transport ignores the options of the other.
TRANSPORT_TIMEOUTS = {
    # Redis
    "socket_timeout": 2,
    "socket_connect_timeout": 1,
    "max_retries": 0,
    "connect_retries_timeout": 1,
    # RabbitMQ
    "connect_timeout": 1,
    "read_timeout": 2,
    "write_timeout": 2,
    # A message counts as published only once RabbitMQ confirms it.
    "confirm_publish": True,
}
# What publishing raises for a message that no broker could take. RabbitMQ's client packs the fields with struct.
ENCODING_ERRORS = (
    SerializationError,
    SerializerNotInstalled,
    FrameSyntaxError,
    LookupError,
    TypeError,
    ValueError,
    struct.error,
)

Result = TypeVar("Result")


def format_error(error: Exception) -> str:
    """Return "TypeName: text"; the type's name alone for an error without a text, such as a socket's timeout."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


class NonRetryingProducer(Producer):
    """A producer that publishes at once or not at all, and that serves as its own pool.

    kombu's mailbox retries without end: a revoke would block until a broker that is gone comes back.
    """

    @contextmanager
    def acquire(self) -> Iterator[Self]:
        """Yield this producer, as a pool does."""
        yield self

    def publish(self, *args: Any, **options: Any) -> Any:
        """Publish without a retry."""
        return super().publish(*args, **{**options, "retry": False})


class Broker:
    """One sweep's own connection: opened when it is first needed, and given up for the sweep when it fails.

    Celery's pool is not used: a pooled connection whose Redis has died blocks until Redis is back, despite time-outs.
    """

    def __init__(self, app: Celery | None = None) -> None:
        """Use the broker of `app`, by default Celery's current app."""
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
        """Send one task.

        Raises `BrokerUnavailable`, and ValueError for a message that no broker could take.
        """
        self._call_guarded("publishing to the broker failed", partial(self._send, task, message, task_id))

    def revoke(self, task_ids: Sequence[str], *, terminate: bool = False, destination: Sequence[str] = ()) -> None:
        """Keep the tasks from starting, in one broadcast; `terminate` also kills those that run.

        `destination` names the nodes that it is sent to; by default all of them. Raises `BrokerUnavailable`.
        """
        signal = {"terminate": True, "signal": "SIGKILL"} if terminate else {}
        arguments = {"task_id": list(task_ids), **signal}
        self._call_guarded(
            "publishing to the broker failed",
            lambda: self.mailbox().cast([*destination] or None, "revoke", arguments),
        )

    def call(self, function: Callable[[Connection], Result]) -> Result:
        """Return what the function returns for the connection.

        Raises `BrokerUnavailable`, and ValueError for an error of the function's own.
        """
        return self._call_guarded("the broker did not answer", lambda: function(self._connection))

    def mailbox(self) -> Mailbox:
        """Return the workers' mailbox on this connection, which must be open."""
        # Celery's control commands take a connection, but publish through its pool all the same.
        mailbox = self.app.control.mailbox(self._connection)
        mailbox.producer_pool = NonRetryingProducer(self._connection)
        return mailbox

    def _send(self, task: str, message: Message, task_id: str) -> None:
        options = {"retry": False, **message.options, "task_id": task_id, "producer": self._producer}
        self.app.send_task(task, message.args, message.kwargs, **options)

    def _call_guarded(self, failure: str, function: Callable[[], Result]) -> Result:
        if self.error:
            raise BrokerUnavailable(self.error)
        try:
            self._connect()
        except Exception as error:
            raise self._mark_down(failure, error) from error
        try:
            return function()
        # What a broken broker raises varies: kombu's errors, the client library's own, RuntimeError.
        except Exception as error:
            # On Redis, kombu takes any KeyError for a broken connection and wraps it.
            cause = error.__cause__ if isinstance(error, OperationalError) else error
            if isinstance(cause, ENCODING_ERRORS):
                raise ValueError(format_error(cause)) from error
            raise self._mark_down(failure, error) from error

    def _mark_down(self, failure: str, error: Exception) -> BrokerUnavailable:
        self.error = f"{failure}: {format_error(error)}"
        return BrokerUnavailable(self.error)

    def _connect(self) -> None:
        if self._connection is None:
            options = {**self.app.conf.broker_transport_options, **TRANSPORT_TIMEOUTS}
            self._connection = self.app.connection_for_write(transport_options=options)
            self._connection.ensure_connection(max_retries=0, timeout=1)
            self._producer = self.app.amqp.Producer(self._connection, auto_declare=False)
