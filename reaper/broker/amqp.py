"""Scan a RabbitMQ broker's queues. It shows messages to consumers only, so they are counted, not read."""

from kombu import Connection

from reaper.broker.connection import format_error
from reaper.broker.snapshot import QueueScan


def scan_amqp(scan: QueueScan, connection: Connection) -> None:
    """Count the messages and consumers of each queue. An empty queue holds no task's message.

    Raises `ScanIncomplete` when the time is up.
    """
    # RabbitMQ does not show delivered messages. That makes no queue incomplete: the workers report what they hold.
    scan.delivered_complete = True
    for queue in scan.queues:
        scan.check_deadline()
        # A refusal closes the channel that it came over.
        channel = connection.channel()
        try:
            found = channel.queue_declare(queue, passive=True)
            scan.depth[queue] = found.message_count
            scan.consumers[queue] = found.consumer_count
        except connection.channel_errors as error:
            # The same code is returned for a queue whose node is down: only a queue that does not exist is empty.
            if "no queue" not in str(error):
                scan.record_problem(f"{queue} cannot be inspected: {format_error(error)}")
                continue
            scan.depth[queue] = 0
            scan.consumers[queue] = 0
        finally:
            connection.maybe_close_channel(channel)
        if scan.depth[queue]:
            scan.record_problem(f"{queue} holds {scan.depth[queue]:,} messages, which RabbitMQ shows to consumers only")
        else:
            scan.complete_queues.add(queue)
