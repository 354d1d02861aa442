"""The guards: where each stands, what it looks like without it, and the tests that have to notice."""

from typing import NamedTuple


class Guard(NamedTuple):
    """One guard: `old`, which stands in the file exactly once, is replaced by `new`."""

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]


RULES = ("tests/reaper/test_decisions.py",)
EVIDENCE = (
    "tests/reaper/evidence/test_collector.py",
    "tests/reaper/evidence/test_fleet.py",
    "tests/reaper/evidence/test_inspection.py",
    "tests/reaper/evidence/test_queued.py",
    "tests/reaper/evidence/test_running.py",
)
SWEEPS = ("tests/reaper/test_sweeps.py",)
SWITCHES = ("tests/reaper/test_switches.py",)
ADAPTERS = ("tests/reaper/test_adapters.py", "tests/sources/test_races.py")
HELD_LIMIT = ("tests/sources/test_runs.py", "tests/sources/test_races.py")
LEDGER = ("tests/reaper/test_ledger.py", "tests/reaper/test_sweeps.py")
MODEL = ("tests/reaper/model/test_model.py",)
PAGES = ("tests/reaper/admin/test_run_views.py",)
BULK = ("tests/reaper/admin/test_bulk_views.py",)
ACCESS = ("tests/reaper/admin/test_access.py",)

CLAIM = "waiting = model._default_manager.filter(pk=pk, status=PENDING, task_id=task_id)"
WRITE = "mine = self.model._default_manager.filter(pk=self.pk, status=RUNNING, task_id=self.task_id)"
EMPTY = "model._default_manager.filter(pk=pk, status=PENDING, task_id=task_id).update"
SEEN = "return current == [run.status, run.task_id, run.queued_at, run.started_at, run.progress_at]"
RECORD = """        with short_transaction(self.adapter.using):
            # First, for it takes longer: no worker's write waits for it, as no run is locked yet.
            ledger.record_updates(self.adapter, changes, self.now, self.row, self.actor)
"""
RECORD_APART = """        ledger.record_updates(self.adapter, changes, self.now, self.row, self.actor)
        with short_transaction(self.adapter.using):
"""


PARTS = ("status", "task", "dispatch", "start", "progress")


def seen_without(index: int) -> str:
    """The comparison of a row with what was seen, without one of its five parts."""
    seen = SEEN.removeprefix("return current == ")
    return f"return [*current[:{index}], *current[{index + 1}:]] == [*{seen}[:{index}], *{seen}[{index + 1}:]]"


def of(path: str, tests: tuple[str, ...], *guards: tuple[str, str, str]) -> list[Guard]:
    """The guards of one file that the same tests have to notice: name, old and new of each."""
    return [Guard(name, path, old, new, tests) for name, old, new in guards]


GUARDS = [
    *of(
        "apps/sources/claims.py",
        HELD_LIMIT,
        ("claim: the status", CLAIM, CLAIM.replace("status=PENDING, ", "")),
        ("claim: the task", CLAIM, CLAIM.replace(", task_id=task_id", "")),
        ("writes: the status", WRITE, WRITE.replace("status=RUNNING, ", "")),
        ("writes: the task", WRITE, WRITE.replace(", task_id=self.task_id", "")),
    ),
    *of(
        "apps/sources/dispatch.py",
        HELD_LIMIT,
        (
            "dispatch: the status",
            "pending = model._default_manager.filter(pk=pk, status=PENDING)",
            "pending = model._default_manager.filter(pk=pk)",
        ),
        ("a failed publish: the status", EMPTY, EMPTY.replace("status=PENDING, ", "")),
        ("a failed publish: the task", EMPTY, EMPTY.replace(", task_id=task_id", "")),
    ),
    *of(
        "apps/sources/parents.py",
        HELD_LIMIT,
        ("a parent is finalized once", "filter(pk=parent_pk, finalized_at=None)", "filter(pk=parent_pk)"),
    ),
    *of(
        "reaper/adapters/model_writer.py",
        ADAPTERS,
        *((f"reap: the {name} as seen", SEEN, seen_without(index)) for index, name in enumerate(PARTS)),
        ("reap: locked rows are skipped", "select_for_update(skip_locked=skip_locked, of=", "select_for_update(of="),
    ),
    *of(
        "reaper/adapters/model_writer.py",
        ADAPTERS + SWEEPS,
        ("reap: a task that is NULL", "if None in task_ids:", "if False:"),
        ("reap: changed rows undo the batch", "!= len(group):", "is None:"),
    ),
    *of(
        "reaper/sweeps/sweep.py",
        SWEEPS,
        ("the ledger in the same transaction", RECORD, RECORD_APART),
        (
            "no ledger of what was not written",
            "if len(won) < len(changes):\n                t",
            "if False:\n                t",
        ),
        ("no sweep inside a transaction", "durable=True", "durable=False"),
        (
            "an owed revoke",
            "row.revoked_at = row.finished_at if self.revoked else None",
            "row.revoked_at = row.finished_at",
        ),
        (
            "a revoke is owed from the commit on",
            "revoked, self.revoked = self.revoked, False",
            "revoked = self.revoked",
        ),
        ("no requeue while the broker is down", "waits = bool(self.broker.error) and not self.actor", "waits = False"),
        ("a slow database is given up", "if self.refusals >= MAX_DB_ERRORS:", "if False:"),
        ("the most that a sweep acts on", "min(BATCH, self.room)", "BATCH"),
    ),
    *of(
        "reaper/ledger/records.py",
        LEDGER,
        ("a kill only where it executes", 'partition("/")[0] if self.terminate else ""', 'partition("/")[0]'),
        ("budgets begin anew by hand only", 'if row["actor"]:', "if True:"),
    ),
    *of(
        "reaper/sweeps/outbox.py",
        SWEEPS,
        ("a shared task is not revoked", "if each.wanted or each.task_id not in shared:", "if True:"),
    ),
    *of(
        "reaper/core/decisions.py",
        RULES,
        ("what is finished", "if run.phase is Phase.FINISHED:", "if False:"),
        ("a status that is not known", "if run.phase not in (Phase.QUEUED, Phase.RUNNING):", "if False:"),
        ("the parent has ended", "if run.parent_ended:", "if False:"),
        ("unpublished", "and run.history.unpublished_task_id == run.task_id:", "and False:"),
        ("about to be published", "if about_to_be_published(run.history, now):", "if False:"),
        ("backoff", "if in_backoff(run.history, policy, now):", "if False:"),
        (
            "no clock",
            "if age is None:\n        return leave(Reason.NO_TIMESTAMP)",
            "if age is None:\n        age = timedelta(days=1)",
        ),
        ("held", "        return leave(Reason.IN_PROGRESS)\n", "        pass\n"),
        ("the grace of an orphan", "if idle <= policy.orphan_grace:", "if False:"),
        ("the grace of a lost one", "if age <= policy.lost_grace:", "if False:"),
        (
            "the worker let it go",
            "if evidence.is_surely_absent and claimant_released(run, evidence):",
            "if evidence.is_surely_absent:",
        ),
        (
            "a running one that is not known",
            "interrupted=evidence.shutdown_announced)\n    return leave(Reason.INCONCLUSIVE)",
            "interrupted=evidence.shutdown_announced)\n    return end(run, policy.on_orphan, policy, Reason.ORPHANED)",
        ),
        (
            "a waiting one that is not known",
            "Reason.OVERTAKEN)\n    return leave(Reason.INCONCLUSIVE)",
            "Reason.OVERTAKEN)\n    return requeue(run, policy, Reason.LOST)",
        ),
        (
            "two looks",
            "evidence.message_location is MessageLocation.ABSENT and evidence.is_confirmed:",
            "evidence.message_location is MessageLocation.ABSENT:",
        ),
        ("the budget of requeues", "exhausted = history.requeues >= policy.max_requeues", "exhausted = False"),
        (
            "the budget of redispatches",
            "exhausted = history.redispatches >= policy.max_redispatches",
            "exhausted = False",
        ),
        (
            "the budget of interruptions",
            "exhausted = history.interruptions >= policy.max_interruptions",
            "exhausted = False",
        ),
    ),
    *of(
        "reaper/core/decisions.py",
        SWITCHES,
        ("exempted", "if run.exempt:", "if False:"),
    ),
    *of(
        "reaper/core/facts.py",
        RULES,
        ("gone: the absence", "return self.absent and bool(self.witness)", "return bool(self.witness)"),
        ("gone: the witness", "return self.absent and bool(self.witness)", "return self.absent"),
        (
            "heard between the looks",
            "self.first_sighting_at is not None and self.all_reported_since",
            "self.first_sighting_at is not None",
        ),
    ),
    *of(
        "reaper/evidence/fleet.py",
        EVIDENCE,
        ("a witness has been there for long", "and self.now - worker.since >= DEAD_AFTER", ""),
        ("a witness is fresh", "if self.now - worker.seen_at <= MAX_HEARTBEAT_AGE", "if True"),
    ),
    *of(
        "reaper/evidence/heartbeats.py",
        EVIDENCE,
        ("a report that is not whole", "and not fleet.uncertainties and not silence", "and not silence"),
    ),
    *of(
        "reaper/evidence/inspection.py",
        EVIDENCE,
        ("a doubt about the answer", "if not node and not reasons:", "if not node:"),
    ),
    *of(
        "reaper/evidence/queued.py",
        EVIDENCE,
        ("more consumers than reports", "if consumers is not None and consumers >", "if False and consumers >"),
    ),
    *of(
        "reaper/workers/liveness.py",
        ("tests/reaper/workers/test_liveness.py", "tests/reaper/workers/test_registry.py", *EVIDENCE),
        (
            "a worker is dead only after its silence",
            "if ended_at is not None or silence > DEAD_AFTER:",
            "if ended_at is not None or silence > MAX_GAP:",
        ),
    ),
    *of(
        "reaper/core/brake.py",
        SWITCHES,
        ("the brake", "return to_act > HELD_LIMIT and is_mass(to_act, unfinished)", "return False"),
    ),
    *of(
        "reaper/evidence/fleet.py",
        SWITCHES,
        ("mass silence", "= brake.detect_mass_silence(consumers, DEAD_AFTER, self.now)", "= None"),
    ),
    *of(
        "reaper/sweeps/sweep.py",
        SWITCHES,
        (
            "observing",
            "        if self.mode is Mode.DRY_RUN:\n            would",
            "        if False:\n            would",
        ),
        ("off", "if run.mode is not Mode.OFF:\n            with", "if True:\n            with"),
        ("the switch within one batch", "and self.room and not self.stopped():", "and self.room:"),
    ),
    *of(
        "reaper/admin/run_views.py",
        PAGES,
        ("a button: the run as it was seen", "    if press.is_outdated:", "    if False:"),
    ),
    *of(
        "reaper/admin/access.py",
        ACCESS,
        ("a button: the permission", 'if not request.user.has_perm("reaper.reap"):', "if False:"),
        ("a button: POST only", "    @require_POST\n", ""),
    ),
    *of(
        "reaper/admin/bulk_views.py",
        BULK,
        ("many at once: as they were seen", "state_token(run) == tokens[run.pk] and ", ""),
    ),
    *of(
        "reaper/adapters/model_writer.py",
        PAGES,
        ("reopen: the task", "            self.task_id_field: before.task_id,\n", ""),
        (
            "reopen: the status",
            '            f"{self.status_field}__in": {self.status_after_fail, self.status_after_close},\n',
            "",
        ),
    ),
    *of(
        "reaper/ledger/records.py",
        PAGES,
        ("reopen: nothing done since", "row if row and row.action in (Action.FAIL, Action.CLOSE) else None", "row"),
    ),
    *of(
        "reaper/sweeps/manual.py",
        PAGES,
        ("reopen: the parent", " if adapter.supports_reopen and not run.parent_ended", " if adapter.supports_reopen"),
    ),
    *of("reaper/controls/append_only.py", SWITCHES, ("two who switch at once", ".select_for_update()[:1]", "[:1]")),
    *of(
        "reaper/controls/append_only.py",
        ("tests/reaper/test_policies.py",),
        ("two who edit at once", ".select_for_update()[:1]", "[:1]"),
    ),
    *of(
        "reaper/ledger/totals.py",
        ("tests/reaper/test_totals.py",),
        (
            "two that prune at once",
            '.select_for_update(skip_locked=skip, of=("self",) if skip else ())[:batch]',
            "[:batch]",
        ),
    ),
    *of(
        "reaper/monitoring/views.py",
        ("tests/reaper/monitoring/test_views.py",),
        ("metrics: no proxy", "if any(name in request.META for name in FORWARDED):", "if False:"),
        ("metrics: the token", "return bool(token) and scheme", "return scheme"),
    ),
    # The model test knows no guard by name: these are to show that it finds what it is not told of.
    *of(
        "apps/sources/claims.py",
        MODEL,
        ("model: claim: the status", CLAIM, CLAIM.replace("status=PENDING, ", "")),
        ("model: claim: the task", CLAIM, CLAIM.replace(", task_id=task_id", "")),
        ("model: writes: the status", WRITE, WRITE.replace("status=RUNNING, ", "")),
        ("model: writes: the task", WRITE, WRITE.replace(", task_id=self.task_id", "")),
    ),
    *of("reaper/sweeps/sweep.py", MODEL, ("model: the ledger in the same transaction", RECORD, RECORD_APART)),
]
