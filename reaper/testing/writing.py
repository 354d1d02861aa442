"""The checks on what an adapter writes."""

from django.db import OperationalError, connections, transaction

from reaper.adapters import ModelRunAdapter, OwnerNotification, Phase
from reaper.core.facts import UNFINISHED_PHASES
from reaper.core.policy import Action
from reaper.testing.base import GUARDED_FACTS, ContractBase, key_of, locked_row


class WritingContract(ContractBase):
    """An adapter must write only what is unchanged, and leave nothing half done."""

    def test_fail_ends_the_run(self) -> None:
        """A failed run is finished."""
        self._check_end(Action.FAIL)

    def test_close_ends_the_run(self) -> None:
        """A closed run is finished."""
        self._check_end(Action.CLOSE)

    def test_requeue_starts_a_new_attempt(self) -> None:
        """A requeued run waits under its new task id, and nothing of the old attempt is left."""
        for phase in UNFINISHED_PHASES:
            update = self._update(self._make(phase), Action.REQUEUE)
            self.assertEqual(self._apply(update), [update], "apply() did not return the update that it wrote.")
            run = self._get(update.run.pk)
            self.assertIs(run.phase, Phase.QUEUED, f"A requeued run is {run.phase}: see status_after_requeue.")
            self.assertEqual(run.task_id, update.new_task_id, "A requeue must store the new task id.")
            self.assertEqual(run.worker, "", "A requeue must clear the worker.")
            left = (run.started_at, run.progress_at)
            self.assertEqual(left, (None, None), "A requeue must clear the times of the old attempt.")

    def test_changed_run_is_not_written(self) -> None:
        """A run that a worker or a person has changed since it was read is skipped; others are written."""
        for fact in ("status", *GUARDED_FACTS):
            for action in (Action.FAIL, Action.REQUEUE):
                with self.subTest(fact=fact, action=action):
                    updates = [self._update(self._make(Phase.RUNNING), action) for _ in range(2)]
                    changed = updates[0].run.pk
                    if not self.change_run(changed, fact):
                        continue
                    before = self._get(changed)
                    applied = self._apply(*updates)
                    why = f"apply() wrote a run whose {fact} had changed since it was read."
                    self.assertEqual(self._get(changed), before, why)
                    self.assertEqual(applied, updates[1:], "apply() must return the updates that it wrote, no others.")

    def test_finished_run_is_never_written(self) -> None:
        """A run that has ended is not written, even if it was read as such."""
        run = self._make(Phase.FINISHED)
        applied = self._apply(self._update(run, Action.REQUEUE))
        self.assertEqual(self._get(run.pk), run, "apply() wrote a run that had ended.")
        self.assertEqual(applied, [], "apply() returned an update of a run that had ended.")

    def test_apply_is_undone_with_the_callers_transaction(self) -> None:
        """The ledger is written in the same transaction: if it is rolled back, the run must be too."""
        run = self._make(Phase.RUNNING)
        with transaction.atomic(self._adapter.using):
            self._adapter.apply([self._update(run, Action.FAIL)], self._now())
            transaction.set_rollback(True, self._adapter.using)
        self.assertEqual(self._get(run.pk), run, "apply() wrote outside of the caller's transaction.")

    def test_locked_row_is_skipped(self) -> None:
        """A row that another transaction has locked is skipped and not waited for (PostgreSQL)."""
        adapter = self._adapter
        connection = connections[adapter.using]
        if connection.vendor != "postgresql" or connection.in_atomic_block or not isinstance(adapter, ModelRunAdapter):
            self.skipTest("needs PostgreSQL, TransactionTestCase and a ModelRunAdapter")
        locked, free = [self._update(self._make(Phase.RUNNING), Action.FAIL) for _ in range(2)]
        try:
            with locked_row(adapter, locked.run.pk), transaction.atomic(adapter.using):
                with connection.cursor() as cursor:
                    cursor.execute("SET LOCAL statement_timeout = '2s'")
                applied = adapter.apply([locked, free], self._now())
        except OperationalError as error:
            self.fail(f"apply() waited for a row that another transaction has locked: {error}")
        self.assertEqual(applied, [free], "apply() must skip a locked row and write the others.")

    def test_ended_run_can_be_reopened_once(self) -> None:
        """A reopened run is as before, and only a run that is as the reaper left it can be reopened."""
        if not self._adapter.supports_reopen:
            return
        run = self._make(Phase.RUNNING)
        self._apply(self._update(run, Action.FAIL))
        self.assertTrue(self._reopen(run), "reopen() did not reopen a failed run.")
        found = self._get(run.pk)
        self.assertEqual((found.status, found.task_id), (run.status, run.task_id), "reopen() must restore the status.")
        self.assertFalse(self._reopen(run), "reopen() reopened a run that had not ended.")
        self._apply(self._update(self._get(run.pk), Action.FAIL))
        if self.change_run(run.pk, "task_id"):
            self.assertFalse(self._reopen(run), "reopen() reopened a run that has another task by now.")

    def test_owner_notification_does_not_raise(self) -> None:
        """`notify_owner()` takes a notification."""
        run = self._make(Phase.RUNNING)
        message = "Worker celery@w1 died."
        self._adapter.notify_owner(OwnerNotification(run.pk, self._now(), "fail", "orphaned", message))

    def test_parent_is_finalized_once(self) -> None:
        """A parent whose children have ended is found, and finalizing it twice does it once."""
        made = self.make_finalizable_parent()
        if made is None:
            return
        parent = key_of(made)
        self.assertIn(parent, list(self._adapter.iter_finalizable_parents()), "iter_finalizable_parents() misses it.")
        self.assertIs(self._adapter.finalize(parent), True, "finalize() must return True when it did it.")
        self.assertIs(self._adapter.finalize(parent), False, "finalize() must be idempotent: the second call is False.")
        left = list(self._adapter.iter_finalizable_parents())
        self.assertNotIn(parent, left, "iter_finalizable_parents() yields a finalized parent.")

    def _check_end(self, action: Action) -> None:
        for phase in UNFINISHED_PHASES:
            update = self._update(self._make(phase), action)
            self.assertEqual(self._apply(update), [update], "apply() did not return the update that it wrote.")
            run = self._get(update.run.pk)
            self.assertIs(run.phase, Phase.FINISHED, f"A run is {run.phase} after {action}: see status_after_{action}.")
            self.assertEqual(run.task_id, update.run.task_id, f"The task id must stay the same on {action}.")
