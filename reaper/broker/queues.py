"""Is a task's message still in the broker? Scan its queues without changing anything, and report what was not read."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from time import monotonic

from celery import current_app
from kombu import Connection

from reaper.adapters import RunAdapter
from reaper.broker.amqp import scan_amqp
from reaper.broker.connection import Broker, format_error
from reaper.broker.redis import scan_redis
from reaper.broker.snapshot import QueueScan, QueueSnapshot
from reaper.exceptions import BrokerUnavailable, ScanIncomplete

# The readers by kombu's `driver_type`. Other transports cannot be inspected.
READERS: Mapping[str, Callable[[QueueScan, Connection], None]] = {"redis": scan_redis, "amqp": scan_amqp}


def scan_queues(broker: Broker, queues: Collection[str], seconds: float = 2.0) -> QueueSnapshot:
    """Return the messages in these queues, found within about that many seconds.

    Raises nothing: what went wrong is in the snapshot's `error`.
    """
    scan = QueueScan(queues, monotonic() + seconds)
    try:
        broker.call(partial(run_scan, scan))
    except (BrokerUnavailable, ValueError) as error:
        scan.record_problem(str(error))
    return scan.result()


def run_scan(scan: QueueScan, connection: Connection) -> None:
    """Run the scan with the reader of the connection's transport; record why if it does not finish."""
    transport = connection.transport.driver_type
    reader = READERS.get(transport)
    if reader is None:
        return scan.record_problem(f"the {transport} transport cannot be inspected")
    try:
        reader(scan, connection)
    except ScanIncomplete as error:
        scan.record_problem(str(error))
    # Missing permissions, or a key of another type: a broker that is gone raises something else.
    except connection.channel_errors as error:
        scan.record_problem(f"the broker refused the scan: {format_error(error)}")


def resolve_queue(adapter: RunAdapter) -> str:
    """Return the queue that a kind's messages go to; '' when Celery's router fails."""
    if adapter.queue:
        return adapter.queue
    try:
        return current_app.amqp.router.route({}, adapter.task)["queue"].name
    except Exception:  # the router runs the host's code
        return ""
