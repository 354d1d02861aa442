"""The guards: how each is taken away, and the tests that have to notice. Where it stands, its mark in the code says."""

from typing import NamedTuple

from tests.mutants import transformers as without
from tests.mutants.transformers import Transformer, always, never


class Guard(NamedTuple):
    """One guard, known by the name in its mark."""

    name: str
    transformer: Transformer
    tests: tuple[str, ...]
    """Files, relative to the repository's root."""
    model: bool = False
    """The model test has to notice as well: it names no guard, so this shows that it finds what nobody told it of."""


MODEL_TESTS = ("tests/reaper/model/test_model.py",)

RULES = (
    "tests/reaper/core/test_decisions.py",
    "tests/reaper/core/test_decisions_running.py",
    "tests/reaper/core/test_decisions_queued.py",
    "tests/reaper/core/test_decisions_budgets.py",
    "tests/reaper/core/test_decisions_properties.py",
    "tests/reaper/core/test_facts.py",
)
EVIDENCE = (
    "tests/reaper/evidence/test_collector.py",
    "tests/reaper/evidence/test_fleet.py",
    "tests/reaper/evidence/test_inspection.py",
    "tests/reaper/evidence/test_queued.py",
    "tests/reaper/evidence/test_running.py",
)
SWEEPS = (
    "tests/reaper/sweeps/test_sweep.py",
    "tests/reaper/sweeps/test_limits.py",
    "tests/reaper/sweeps/test_writer.py",
    "tests/reaper/sweeps/test_outbox.py",
    "tests/reaper/sweeps/test_outbox_recovery.py",
)
CONTROLS = (
    "tests/reaper/controls/test_modes.py",
    "tests/reaper/controls/test_exemptions.py",
    "tests/reaper/sweeps/test_holds.py",
    "tests/reaper/sweeps/test_mode.py",
    "tests/reaper/sweeps/test_dry_run.py",
)
OVERRIDES = ("tests/reaper/controls/test_overrides.py",)
WORKERS = ("tests/reaper/workers/test_liveness.py", "tests/reaper/workers/test_registry.py", *EVIDENCE)
ADAPTERS = ("tests/reaper/adapters/test_model_writer.py", "tests/sources/test_races.py")
HOST_RUNS = (
    "tests/sources/test_claims.py",
    "tests/sources/test_dispatch.py",
    "tests/sources/test_parents.py",
    "tests/sources/test_races.py",
)
LEDGER = ("tests/reaper/ledger/test_history.py", "tests/reaper/ledger/test_delivery.py", *SWEEPS)
TOTALS = ("tests/reaper/ledger/test_totals.py",)
PAGES = ("tests/reaper/admin/test_run_views.py",)
BULK_PAGES = ("tests/reaper/admin/test_bulk_views.py",)
ACCESS = ("tests/reaper/admin/test_access.py",)
VIEWS = ("tests/reaper/monitoring/test_views.py",)

GUARDS = [
    # The host's conditional writes.
    Guard("claim: the status", without.drop_keyword("status", of="filter"), HOST_RUNS, model=True),
    Guard("claim: the task", without.drop_keyword("task_id", of="filter"), HOST_RUNS, model=True),
    Guard("writes: the status", without.drop_keyword("status", of="filter"), HOST_RUNS, model=True),
    Guard("writes: the task", without.drop_keyword("task_id", of="filter"), HOST_RUNS, model=True),
    Guard("dispatch: the status", without.drop_keyword("status", of="filter"), HOST_RUNS),
    Guard("a failed publish: the status", without.drop_keyword("status", of="filter"), HOST_RUNS),
    Guard("a failed publish: the task", without.drop_keyword("task_id", of="filter"), HOST_RUNS),
    Guard("a parent is finalized once", without.drop_keyword("finalized_at", of="filter"), HOST_RUNS),
    # The reaper's conditional writes.
    Guard("reap: the status as seen", without.drop_element("status"), ADAPTERS),
    Guard("reap: the task as seen", without.drop_element("task_id"), ADAPTERS),
    Guard("reap: the dispatch as seen", without.drop_element("queued_at"), ADAPTERS),
    Guard("reap: the start as seen", without.drop_element("started_at"), ADAPTERS),
    Guard("reap: the progress as seen", without.drop_element("progress_at"), ADAPTERS),
    Guard("reap: locked rows are skipped", without.drop_keyword("skip_locked", of="select_for_update"), ADAPTERS),
    Guard("reap: a task that is NULL", never, ADAPTERS + SWEEPS),
    Guard("reap: changed rows undo the batch", never, ADAPTERS + SWEEPS),
    Guard("reopen: the task", without.drop_entry(), PAGES),
    Guard("reopen: the status", without.drop_entry(), PAGES),
    Guard("reopen: nothing done since", without.keep_body(), PAGES),
    Guard("reopen: the parent", without.drop_operand("parent_ended"), PAGES),
    # A sweep.
    Guard("off", always, CONTROLS),
    Guard("observing", never, CONTROLS),
    Guard("the switch within one batch", without.drop_operand("is_stopped"), CONTROLS),
    Guard("the most that a sweep acts on", without.first_argument("min"), SWEEPS),
    Guard("no requeue while the broker is down", without.value("False"), SWEEPS),
    Guard("a revoke is owed from the commit on", without.drop_target("self.log.all_revoked"), SWEEPS),
    Guard("an owed revoke", without.keep_body(), SWEEPS),
    Guard("a shared task is not revoked", always, SWEEPS),
    Guard("a slow database is given up", never, SWEEPS),
    Guard("the ledger in the same transaction", without.hoist_first(), SWEEPS, model=True),
    Guard("no ledger of what was not written", never, SWEEPS),
    Guard("no sweep inside a transaction", without.set_keyword("durable", False, of="atomic"), SWEEPS),
    # The ledger.
    Guard("a kill only where it executes", without.keep_body(), LEDGER),
    Guard("budgets begin anew by hand only", always, LEDGER),
    Guard("two that count at once", without.drop_call("select_for_update"), TOTALS),
    # The rules.
    Guard("what is finished", never, RULES),
    Guard("a status that is not known", never, RULES),
    Guard("exempted", never, CONTROLS),
    Guard("the parent has ended", never, RULES),
    Guard("unpublished", never, RULES),
    Guard("about to be published", never, RULES),
    Guard("backoff", never, RULES),
    Guard("no clock", without.body("age = timedelta(days=1)"), RULES),
    Guard("held", without.remove(), RULES),
    Guard("the grace of an orphan", never, RULES),
    Guard("the grace of a lost one", never, RULES),
    Guard("the worker let it go", without.drop_operand("claimant_released"), RULES),
    Guard(
        "a running one that is not known",
        without.value("fail_or_requeue(run, policy.on_orphan, policy, Reason.ORPHANED)"),
        RULES,
    ),
    Guard("a waiting one that is not known", without.value("requeue(run, policy, Reason.LOST)"), RULES),
    Guard("two looks", without.drop_operand("is_confirmed"), RULES),
    Guard("the budget of requeues", without.value("False"), RULES),
    Guard("the budget of redispatches", without.value("False"), RULES),
    Guard("the budget of interruptions", without.value("False"), RULES),
    # The evidence.
    Guard("gone: the absence", without.drop_operand("absent"), RULES),
    Guard("gone: the witness", without.drop_operand("witness"), RULES),
    Guard("heard between the looks", without.drop_operand("all_reported_since"), RULES),
    Guard("a witness has been there for long", without.drop_operand("since"), EVIDENCE),
    Guard("a witness is fresh", without.drop_filter("seen_at"), EVIDENCE),
    Guard("a report that is not whole", without.drop_operand("uncertainties"), EVIDENCE),
    Guard("a doubt about the answer", without.drop_operand("reasons"), EVIDENCE),
    Guard("more consumers than reports", never, EVIDENCE),
    Guard("a worker is dead only after its silence", without.rename("DEAD_AFTER", "MAX_GAP"), WORKERS),
    # The brake.
    Guard("the brake", without.value("False"), CONTROLS),
    Guard("mass silence", without.value("None"), CONTROLS),
    # People.
    Guard("two who switch at once", without.drop_call("select_for_update"), CONTROLS),
    Guard("two who edit at once", without.drop_call("select_for_update"), OVERRIDES),
    Guard("a button: the run as it was seen", never, PAGES),
    Guard("a button: the permission", never, ACCESS),
    Guard("a button: POST only", without.drop_decorator("require_POST"), ACCESS),
    Guard("many at once: as they were seen", without.drop_operand("state_token"), BULK_PAGES),
    # Machines.
    Guard("metrics: no proxy", never, VIEWS),
    Guard("metrics: the token", without.drop_operand("token"), VIEWS),
]
