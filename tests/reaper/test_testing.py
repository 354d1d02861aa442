"""The contract for adapters: every adapter of ours keeps it, and every broken one fails for its own reason."""

import unittest
from dataclasses import replace
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.test import SimpleTestCase, TestCase, TransactionTestCase

from reaper.adapters import Message
from reaper.core.policy import Action
from reaper.testing import AdapterContract
from tests.factories import NOW, child, parent, queued_job, running_job, sent_child
from tests.plugin.adapter import Parcels
from tests.plugin.models import Parcel

CHECKS = len([name for name in dir(AdapterContract) if name.startswith("test_")])


class CrawlJobsContract(AdapterContract, TestCase):
    adapter = "apps.sources.reaping.CrawlJobs"
    test_locked_row_is_skipped = None  # in test_adapters, which has committed rows

    def make_queued(self):
        return queued_job()

    def make_running(self):
        return running_job()

    def make_finished(self):
        return running_job(status="completed")


class SourceResultsContract(AdapterContract, TestCase):
    adapter = "apps.sources.reaping.SourceResults"
    test_locked_row_is_skipped = None  # in test_adapters, which has committed rows

    def make_queued(self):
        return sent_child()

    def make_running(self):
        return child(parent("pending"), "running", worker="celery@w1/abc")

    def make_finished(self):
        return child(parent("pending"), "failed")

    def make_finalizable_parent(self):
        return parent("completed", "failed")


def make_parcel(**fields):
    return Parcel.objects.create(job=str(uuid4()), made=NOW, **fields)


class ParcelsContract(AdapterContract):
    adapter = "tests.plugin.adapter.Parcels"

    def make_queued(self):
        return make_parcel(stage="new")

    def make_running(self):
        return make_parcel(stage="underway", picked=NOW)

    def make_finished(self):
        return make_parcel(stage="done")


class ReopeningParcels(Parcels):
    supports_reopen = True
    parents = {"p1"}

    def iter_finalizable_parents(self):
        yield from sorted(self.parents)

    def finalize(self, parent):
        was_open = parent in self.parents
        self.parents = self.parents - {parent}
        return was_open


class ReopeningParcelsContract(ParcelsContract):
    adapter = f"{__name__}.ReopeningParcels"

    def make_finalizable_parent(self):
        return "p1"


class InSavepoint(SimpleTestCase):
    """A test case inside the transaction of a pytest test, whose connection Django's own TestCase would close."""

    databases = "__all__"

    def setUp(self):
        super().setUp()
        savepoint = transaction.atomic()
        savepoint.__enter__()
        self.addCleanup(savepoint.__exit__, None, None, None)
        self.addCleanup(transaction.set_rollback, True)


def run_contract(contract, base=InSavepoint):
    """Run all checks; return what failed, as {check: message}, and the number of checks that ran."""
    case = type(contract.__name__, (contract, base), {"available_apps": ["apps.sources", "reaper", "tests.plugin"]})
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    failed = {}
    for test, trace in (*result.failures, *result.errors):
        failed.setdefault(getattr(test, "test_case", test)._testMethodName, trace)
    return failed, result.testsRun - len(result.skipped)


def test_adapter_contract_holds_for_plugin_adapter(parcels):
    failed, ran = run_contract(ParcelsContract)
    assert failed == {}
    assert ran == CHECKS - 1  # that on locked rows needs TransactionTestCase


def test_adapter_contract_runs_every_check_where_all_is_supported(parcels):
    failed, ran = run_contract(ReopeningParcelsContract)
    assert failed == {}
    assert ran == CHECKS - 1


@pytest.mark.skipif(connection.vendor != "postgresql", reason="needs SKIP LOCKED")
@pytest.mark.django_db(transaction=True)
def test_adapter_contract_in_transaction_test_case_checks_locked_rows(parcels):
    failed, ran = run_contract(ParcelsContract, TransactionTestCase)
    assert failed == {}
    assert ran == CHECKS


# --- broken adapters ------------------------------------------------------------------------------------------------


class ReopeningAll(ReopeningParcels):
    def reopen(self, before):
        return bool(self.queryset().filter(pk=before.pk).update(stage=before.status))


class FinalizingTwice(ReopeningParcels):
    def finalize(self, parent):
        return parent == "p1"


class WithoutColumn(Parcels):
    worker_field = "who"

    def _fact_columns(self):
        return [column for column in super()._fact_columns() if column != "who"]

    def _facts(self, row):
        return super()._facts({**row, "who": ""})

    def _update_values(self, *arguments):
        return {column: value for column, value in super()._update_values(*arguments).items() if column != "who"}


class SwappedStatuses(Parcels):
    queued_statuses = ("underway",)
    running_statuses = ("new", "again")
    status_after_requeue = "underway"


class UnmappedFailure(Parcels):
    finished_statuses = ("done",)
    status_after_close = "done"


class UnmappedClose(Parcels):
    status_after_close = "again"


class NumericKeys(Parcels):
    def _facts(self, row):
        return replace(super()._facts(row), pk=row["pk"])


class NaiveTimes(Parcels):
    def _facts(self, row):
        return replace(super()._facts(row), created_at=row["made"].replace(tzinfo=None))


class RaisingForUnknownKeys(Parcels):
    def get(self, pk):
        return self._facts(self.queryset().values(*self._fact_columns()).get(pk=pk))


class BlindToRunning(Parcels):
    def iter_unfinished(self, phase):
        return super().iter_unfinished(phase) if str(phase) == "queued" else iter(())


class CountingAll(Parcels):
    def summarize(self, phase, limit=1):
        summary = super().summarize(phase, limit)
        return replace(summary, count=Parcel.objects.count() + 1)


class MessagesByNumber(Parcels):
    def messages(self, runs):
        return {int(run.pk): Message(args=[run.pk]) for run in runs}


class UnencodableMessage(Parcels):
    def messages(self, runs):
        return {run.pk: Message(args=[object()]) for run in runs}


class Unguarded(Parcels):
    def _is_unchanged(self, run, row):
        return row is not None


class ReturningAll(Parcels):
    def apply(self, updates, now):
        super().apply(updates, now)
        return list(updates)


class WritingNothing(Parcels):
    def apply(self, updates, now):
        return list(updates)


class KeepingTheStart(Parcels):
    def _update_values(self, action, group, now):
        values = super()._update_values(action, group, now)
        if action is Action.REQUEUE:
            del values["picked"]
        return values


class KeepingTheTask(Parcels):
    def _update_values(self, action, group, now):
        values = super()._update_values(action, group, now)
        values.pop("job", None)
        return values


class ForgettingTaskIds(Parcels):
    def task_ids_in_use(self, task_ids):
        return set(task_ids)


class FindingTheFirst(Parcels):
    def find_by_task_id(self, task_id):
        return self._first()


class WaitingForLocks(Parcels):
    def _lock_rows(self, pks):
        list(self.queryset().filter(pk__in=pks).select_for_update())
        return super()._lock_rows(pks)


BROKEN = [
    (WithoutColumn, "adapter_passes_its_own_checks", "worker_field is 'who', which plugin.Parcel does not have"),
    (SwappedStatuses, "each_run_has_the_phase_of_its_status", "made a run that the adapter reads as queued"),
    (UnmappedFailure, "fail_ends_the_run", "A run is unknown after fail: see status_after_fail."),
    (UnmappedClose, "close_ends_the_run", "A run is queued after close: see status_after_close."),
    (NumericKeys, "facts_are_named_and_typed_as_promised", "A run's pk must be a str."),
    (NaiveTimes, "facts_are_named_and_typed_as_promised", "created_at is naive"),
    (RaisingForUnknownKeys, "unknown_keys_are_no_runs", "get('') raised ValueError"),
    (BlindToRunning, "iter_unfinished_yields_the_runs_of_the_phase_only", "iter_unfinished(running) misses a run"),
    (CountingAll, "summary_counts_the_phase", "counts other runs than iter_unfinished()"),
    (MessagesByNumber, "message_can_be_encoded", "messages() must map each run's pk (a str) to its message."),
    (UnencodableMessage, "message_can_be_encoded", "The message cannot be encoded as json"),
    (Unguarded, "changed_run_is_not_written", "apply() wrote a run whose started_at had changed since it was read."),
    (ReturningAll, "changed_run_is_not_written", "apply() must return the updates that it wrote, no others."),
    (WritingNothing, "fail_ends_the_run", "A run is running after fail"),
    (KeepingTheStart, "requeue_starts_a_new_attempt", "A requeue must clear the times of the old attempt."),
    (KeepingTheTask, "requeue_starts_a_new_attempt", "A requeue must store the new task id."),
    (ForgettingTaskIds, "task_ids_in_use_are_those_of_unfinished_runs", "must return the ids of unfinished runs"),
    (FindingTheFirst, "run_is_found_by_its_task_id", "find_by_task_id() finds an unknown id."),
    (ReopeningAll, "ended_run_can_be_reopened_once", "reopen() reopened a run that had not ended."),
    (FinalizingTwice, "parent_is_finalized_once", "finalize() must be idempotent"),
]


@pytest.mark.parametrize(("broken", "check", "sentence"), BROKEN, ids=[broken.__name__ for broken, _, _ in BROKEN])
def test_adapter_contract_names_each_fault_of_a_broken_adapter(parcels, broken, check, sentence):
    base = ReopeningParcelsContract if issubclass(broken, ReopeningParcels) else ParcelsContract
    contract = type("Broken", (base,), {"adapter": f"{__name__}.{broken.__name__}"})
    failed, _ = run_contract(contract)
    assert sentence in failed[f"test_{check}"]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="needs SKIP LOCKED")
@pytest.mark.django_db(transaction=True)
def test_adapter_contract_names_an_adapter_that_waits_for_locks(parcels):
    contract = type("Broken", (ParcelsContract,), {"adapter": f"{__name__}.WaitingForLocks"})
    failed, _ = run_contract(contract, TransactionTestCase)
    assert list(failed) == ["test_locked_row_is_skipped"]
    assert "apply() waited for a row that another transaction has locked" in failed["test_locked_row_is_skipped"]
