"""Tests that every adapter must pass, for a host to run on its own adapters.

    class TestOrders(AdapterContract, TransactionTestCase):
        adapter = "shop.reaping.Orders"

        def make_queued(self):
            return Order.objects.create(status="waiting", celery_id=str(uuid4()))

        def make_running(self):
            return Order.objects.create(status="working", celery_id=str(uuid4()), began=timezone.now())

        def make_finished(self):
            return Order.objects.create(status="done", celery_id=str(uuid4()))

It runs under `manage.py test` and under pytest. With `TestCase` instead of `TransactionTestCase` it is faster, and the
check on locked rows is skipped. Checks on what the adapter does not have (reopening, parents) pass.
"""

from reaper.testing.reading import ReadingContract
from reaper.testing.writing import WritingContract

__all__ = ["AdapterContract"]


class AdapterContract(ReadingContract, WritingContract):
    """A mixin for a Django test case: the checks on one adapter. Each failure says what the adapter does wrong."""
