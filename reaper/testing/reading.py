"""The checks on what an adapter reads."""

from uuid import uuid4

from celery import current_app
from django.core import checks
from kombu.serialization import dumps

from reaper.adapters import Phase, RunAdapter
from reaper.core.facts import UNFINISHED_PHASES
from reaper.testing.base import ContractBase

# What a key could look like in a URL or on a command line; none of them is a run's.
UNKNOWN_KEYS = ("", "x", "-1", "1.5", "None", "9" * 40, "00000000-0000-0000-0000-000000000000", "\x00")


class ReadingContract(ContractBase):
    """An adapter must read what the host means."""

    def test_adapter_passes_its_own_checks(self) -> None:
        """`check()` finds no error."""
        errors = [str(each) for each in self._adapter.check() if each.level >= checks.ERROR]
        self.assertEqual(errors, [], "check() reports errors.")

    def test_each_run_has_the_phase_of_its_status(self) -> None:
        """Rows are mapped to the phases that the host means."""
        for phase in (*UNFINISHED_PHASES, Phase.FINISHED):
            with self.subTest(phase):
                found = self._make(phase).phase
                self.assertIs(found, phase, f"make_{phase}() made a run that the adapter reads as {found}.")

    def test_facts_are_named_and_typed_as_promised(self) -> None:
        """Kind and key are the adapter's, the task id is there, and times are aware."""
        for phase in UNFINISHED_PHASES:
            run = self._make(phase)
            self.assertEqual(run.kind, self._adapter.kind, "A run's kind is not the adapter's.")
            self.assertIsInstance(run.pk, str, "A run's pk must be a str.")
            self.assertTrue(run.task_id, f"make_{phase}() made a run without a task id, or the adapter reads none.")
            for name in ("created_at", "queued_at", "started_at", "progress_at"):
                stamp = getattr(run, name)
                aware = stamp is None or stamp.utcoffset() is not None
                self.assertTrue(aware, f"{name} is naive; the reaper compares aware datetimes.")

    def test_iter_unfinished_yields_the_runs_of_the_phase_only(self) -> None:
        """Every unfinished run is found in its phase, as `get()` reads it, and a finished one in none."""
        runs = {phase: self._make(phase) for phase in (*UNFINISHED_PHASES, Phase.FINISHED)}
        for phase in UNFINISHED_PHASES:
            found = [run for page in self._adapter.iter_unfinished(phase) for run in page]
            self.assertIn(runs[phase], found, f"iter_unfinished({phase}) misses a run, or reads it unlike get().")
            others = {runs[other].pk for other in runs if other is not phase}
            self.assertFalse(others & {run.pk for run in found}, f"iter_unfinished({phase}) yields other phases' runs.")

    def test_keys_round_trip(self) -> None:
        """`get()`, `get_all()` and `RunFacts.pk` mean the same key."""
        runs = [self._make(phase) for phase in UNFINISHED_PHASES]
        self.assertEqual([self._adapter.get(run.pk) for run in runs], runs, "get(run.pk) is another run.")
        found = self._adapter.get_all([run.pk for run in runs])
        self.assertCountEqual(found, runs, "get_all() returns other runs than get().")

    def test_unknown_keys_are_no_runs(self) -> None:
        """What cannot be a key finds nothing, and raises nothing."""
        self._make(Phase.RUNNING)
        for key in UNKNOWN_KEYS:
            with self.subTest(key=key):
                self.assertIsNone(self._call("get", key), f"get({key!r}) must be None.")
                self.assertEqual(self._call("get_all", [key]), [], f"get_all([{key!r}]) must be empty.")
                self.assertIs(self._call("finalize", key), False, f"finalize({key!r}) must be False.")

    def test_summary_counts_the_phase(self) -> None:
        """`summarize()` counts the phase's runs, and returns at most as many as asked for."""
        for phase in UNFINISHED_PHASES:
            for _ in range(2):
                self._make(phase)
            expected = sum(len(page) for page in self._adapter.iter_unfinished(phase))
            summary = self._adapter.summarize(phase, 1)
            self.assertEqual(summary.count, expected, f"summarize({phase}) counts other runs than iter_unfinished().")
            self.assertEqual(len(summary.oldest), 1, f"summarize({phase}, 1) must return one run.")

    def test_run_is_found_by_its_task_id(self) -> None:
        """`find_by_task_id()`, where the adapter has one, finds the run and nothing for an unknown id."""
        if type(self._adapter).find_by_task_id is RunAdapter.find_by_task_id:
            return
        run = self._make(Phase.RUNNING)
        self.assertEqual(self._adapter.find_by_task_id(str(run.task_id)), run, "find_by_task_id() finds another run.")
        self.assertIsNone(self._adapter.find_by_task_id(str(uuid4())), "find_by_task_id() finds an unknown id.")

    def test_task_ids_in_use_are_those_of_unfinished_runs(self) -> None:
        """`task_ids_in_use()`, where the adapter has one, returns exactly the ids of unfinished runs."""
        if type(self._adapter).task_ids_in_use is RunAdapter.task_ids_in_use:
            return
        ids = {phase: str(self._make(phase).task_id) for phase in (*UNFINISHED_PHASES, Phase.FINISHED)}
        found = self._adapter.task_ids_in_use([*ids.values(), str(uuid4())])
        expected = {ids[phase] for phase in UNFINISHED_PHASES}
        self.assertEqual(found, expected, "task_ids_in_use() must return the ids of unfinished runs and no others.")

    def test_message_can_be_encoded(self) -> None:
        """Each run has a message, by its key, that Celery can serialize."""
        run = self._make(Phase.RUNNING)
        messages = self._adapter.messages([run])
        self.assertEqual(list(messages), [run.pk], "messages() must map each run's pk (a str) to its message.")
        message = messages[run.pk]
        serializer = current_app.conf.task_serializer
        try:
            dumps((tuple(message.args), dict(message.kwargs)), serializer=serializer)
        except Exception as error:
            self.fail(f"The message cannot be encoded as {serializer}: {error}")
