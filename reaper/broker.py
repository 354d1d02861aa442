"""The broker, asked within bounds: a sweep must end also when the broker hangs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from celery import Celery, current_app
from kombu import Connection, Producer
from kombu.exceptions import SerializationError

from reaper.adapters import Message

# A connection of the sweep's own, because one from Celery's pool whose Redis has died blocks until Redis is back,
# whatever its timeouts say. Seconds; one refused or hanging connection costs about 2 s, and a sweep pays it once.
BOUNDS = {"socket_timeout": 2, "socket_connect_timeout": 1, "max_retries": 0, "connect_retries_timeout": 1}


class BrokerDown(Exception):
    """The broker did not take a message. Said once per sweep: after the first failure it is not asked again."""


class Once(Producer):
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
        self._connection: Connection | None = None
        self._producer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._connection is not None:
            self._connection.release()

    def publish(self, task: str, message: Message, task_id: str) -> None:
        """Send one task. Raises `BrokerDown`, and ValueError for a message that no broker could take."""
        self._ask(self._send, task, message, task_id)

    def revoke(self, task_ids: Sequence[str], *, terminate: bool = False) -> None:
        """Forbid the tasks to start, in one broadcast; `terminate` kills those that run. Raises `BrokerDown`."""
        signal = {"terminate": True, "signal": "SIGKILL"} if terminate else {}
        self._ask(self._broadcast, "revoke", {"task_id": list(task_ids), **signal})

    def _send(self, task: str, message: Message, task_id: str) -> None:
        options = {"retry": False, **message.options, "task_id": task_id, "producer": self._producer}
        self.app.send_task(task, message.args, message.kwargs, **options)

    def _broadcast(self, command: str, arguments: dict[str, Any]) -> None:
        # Celery's control.revoke() takes a connection, but publishes through its pool all the same.
        mailbox = self.app.control.mailbox(self._connection)
        mailbox.producer_pool = Once(self._connection)
        mailbox.abcast(command, arguments)

    def _ask(self, what: Any, *args: Any) -> None:
        if self.error:
            raise BrokerDown(self.error)
        try:
            self._connect()
            what(*args)
        except SerializationError as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        # What a broken broker raises varies: kombu's errors, the client library's own, RuntimeError.
        except Exception as error:
            self.error = f"the broker did not take a message: {type(error).__name__}: {error}"
            raise BrokerDown(self.error) from error

    def _connect(self) -> None:
        if self._connection is None:
            options = {**self.app.conf.broker_transport_options, **BOUNDS}
            self._connection = self.app.connection_for_write(transport_options=options)
            self._connection.ensure_connection(max_retries=0, timeout=1)
            self._producer = self.app.amqp.Producer(self._connection, auto_declare=False)
