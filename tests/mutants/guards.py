"""How each guard is removed, and the tests that must fail then. The mark in the code says where the guard is."""

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
    """Whether the model test must fail as well: it names no guard, so this shows that it finds unlisted faults."""


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
    Guard("failed publish: the status", without.drop_keyword("status", of="filter"), HOST_RUNS),
    Guard("failed publish: the task", without.drop_keyword("task_id", of="filter"), HOST_RUNS),
    Guard("a parent is finalized once", without.drop_keyword("finalized_at", of="filter"), HOST_RUNS),
    # The reaper's conditional writes.
    Guard("reap: the status is unchanged", without.drop_element("status"), ADAPTERS),
    Guard("reap: the task is unchanged", without.drop_element("task_id"), ADAPTERS),
    Guard("reap: the dispatch is unchanged", without.drop_element("queued_at"), ADAPTERS),
    Guard("reap: the start is unchanged", without.drop_element("started_at"), ADAPTERS),
    Guard("reap: the progress is unchanged", without.drop_element("progress_at"), ADAPTERS),
    Guard("reap: locked rows are skipped", without.drop_keyword("skip_locked", of="select_for_update"), ADAPTERS),
    Guard("reap: the task is NULL", never, ADAPTERS + SWEEPS),
    Guard("reap: changed rows roll the batch back", never, ADAPTERS + SWEEPS),
    Guard("reopen: the task", without.drop_entry(), PAGES),
    Guard("reopen: the status", without.drop_entry(), PAGES),
    Guard("reopen: no later action", without.keep_body(), PAGES),
    Guard("reopen: the parent has not ended", without.drop_operand("parent_ended"), PAGES),
    # A sweep.
    Guard("mode: off", always, CONTROLS),
    Guard("mode: dry run", never, CONTROLS),
    Guard("mode: checked between batches", without.drop_operand("is_stopped"), CONTROLS),
    Guard("limit of actions per sweep", without.first_argument("min"), SWEEPS),
    Guard("no requeue while the broker is down", without.value("False"), SWEEPS),
    Guard("a revoke is pending from the commit on", without.drop_target("self.log.all_revoked"), SWEEPS),
    Guard("a pending revoke", without.keep_body(), SWEEPS),
    Guard("a shared task is not revoked", always, SWEEPS),
    Guard("a slow database ends the sweep", never, SWEEPS),
    Guard("ledger entry in the same transaction", without.hoist_first(), SWEEPS, model=True),
    Guard("no ledger entry without a write", never, SWEEPS),
    Guard("no sweep inside a transaction", without.set_keyword("durable", False, of="atomic"), SWEEPS),
    # The ledger.
    Guard("a kill only for a running task", without.keep_body(), LEDGER),
    Guard("only a manual action resets the budgets", always, LEDGER),
    Guard("concurrent updates of the totals", without.drop_call("select_for_update"), TOTALS),
    # The rules.
    Guard("run is finished", never, RULES),
    Guard("run has an unknown status", never, RULES),
    Guard("run is exempt", never, CONTROLS),
    Guard("parent has ended", never, RULES),
    Guard("run was not published", never, RULES),
    Guard("run is about to be published", never, RULES),
    Guard("backoff", never, RULES),
    Guard("run has no start time", without.body("age = timedelta(days=1)"), RULES),
    Guard("a worker holds the task", without.remove(), RULES),
    Guard("grace period of an orphaned run", never, RULES),
    Guard("grace period of a lost run", never, RULES),
    Guard("the worker released the task", without.drop_operand("claimant_released"), RULES),
    Guard(
        "running without evidence",
        without.value("fail_or_requeue(run, policy.on_orphan, policy, Reason.ORPHANED)"),
        RULES,
    ),
    Guard("pending without evidence", without.value("requeue(run, policy, Reason.LOST)"), RULES),
    Guard("confirmed by a second observation", without.drop_operand("is_confirmed"), RULES),
    Guard("budget of requeues", without.value("False"), RULES),
    Guard("budget of redispatches", without.value("False"), RULES),
    Guard("budget of interruptions", without.value("False"), RULES),
    # The evidence.
    Guard("gone: absent from every report", without.drop_operand("absent"), RULES),
    Guard("gone: a witness", without.drop_operand("witness"), RULES),
    Guard("reports between the observations", without.drop_operand("all_reported_since"), RULES),
    Guard("a witness has reported for long enough", without.drop_operand("since"), EVIDENCE),
    Guard("a witness has reported recently", without.drop_filter("seen_at"), EVIDENCE),
    Guard("an incomplete heartbeat", without.drop_operand("uncertainties"), EVIDENCE),
    Guard("an uncertain inspection", without.drop_operand("reasons"), EVIDENCE),
    Guard("more consumers than reporting workers", never, EVIDENCE),
    Guard("a worker is dead only after DEAD_AFTER", without.rename("DEAD_AFTER", "MAX_GAP"), WORKERS),
    # The brake.
    Guard("brake: engaged by the share of runs", without.value("False"), CONTROLS),
    Guard("brake: most workers are silent", without.value("None"), CONTROLS),
    # People.
    Guard("concurrent changes of the mode", without.drop_call("select_for_update"), CONTROLS),
    Guard("concurrent edits of an override", without.drop_call("select_for_update"), OVERRIDES),
    Guard("button: the run is unchanged", never, PAGES),
    Guard("button: the permission", never, ACCESS),
    Guard("button: POST only", without.drop_decorator("require_POST"), ACCESS),
    Guard("bulk action: the runs are unchanged", without.drop_operand("state_token"), BULK_PAGES),
    # Machines.
    Guard("metrics: no proxy", never, VIEWS),
    Guard("metrics: the token", without.drop_operand("token"), VIEWS),
]
