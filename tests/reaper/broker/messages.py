"""Sending, taking and scanning messages, for the tests of this folder."""

from celery import Celery
from kombu import Connection

from reaper.adapters import Message
from reaper.broker.connection import Broker
from reaper.broker.queues import scan_queues

TASK = "minimal_project.hold"


def celery_app(url, **transport_options):
    """Return a Celery project that publishes to that broker."""
    app = Celery("elsewhere", set_as_current=False)
    app.conf.update(broker_write_url=url, broker_transport_options=transport_options)
    return app


def send(app, queue, *ids, **options):
    """Publish one task for each of the ids; `options` are publishing options."""
    with Broker(app) as link:
        for task_id in ids:
            link.publish(TASK, Message(["x"], options={"queue": queue, **options}), task_id)


def scan(app, *names, seconds=20.0):
    """Return what a scan of these queues finds."""
    with Broker(app) as link:
        return scan_queues(link, names, seconds)


class Consumer:
    """Takes messages as a worker does, without acknowledging them."""

    def __init__(self, url, queue, **transport_options):
        self.connection = Connection(url, transport_options=transport_options)
        self.queue = self.connection.SimpleQueue(queue)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def take(self):
        """Return the task id of the next message, and the message."""
        message = self.queue.get(timeout=10)
        return message.headers["id"], message
