"""Hypothesis strategies: whatever a row, its history, the evidence and a policy may say."""

from datetime import UTC, timedelta, timezone

from hypothesis import settings
from hypothesis import strategies as st

from reaper.core.facts import Evidence, History, Liveness, MessageLocation, Phase, RunFacts
from reaper.core.policy import Action, Policy
from tests.factories import NOW
from tests.reaper.core.cases import DAY, END_OF_TIME, TICK, W1, W2, YEAR_ONE

EAST, WEST = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))
ZONES = st.sampled_from([UTC, EAST, WEST])
EDGES = st.sampled_from([edge.replace(tzinfo=zone) for edge in (YEAR_ONE, END_OF_TIME) for zone in (UTC, EAST, WEST)])
STAMPS = st.none() | EDGES | st.datetimes(timezones=ZONES) | st.timedeltas(-2 * DAY, 2 * DAY).map(NOW.__add__)
PAST = st.none() | st.timedeltas(timedelta(0), 2 * DAY).map(NOW.__sub__)
SKEWS = st.just(timedelta(0)) | st.timedeltas(-DAY, DAY) | st.sampled_from([timedelta.min, timedelta.max])
IDS = st.sampled_from(["", None, "t1", "t2"])
COUNTS = st.integers(0, 8)
TEXTS = st.sampled_from(["", "pending", "running", "None", "é\x00x", "/", "//"])
WORKERS = st.sampled_from(["", W1, W2, "celery@w1", "/"])
SPANS = st.timedeltas(TICK, 3 * DAY)
ENDINGS = st.sampled_from([Action.FAIL, Action.REQUEUE])


def histories(stamps=STAMPS):
    texts, counts = (
        IDS.map(lambda task_id: task_id or ""),
        dict.fromkeys(["requeues", "redispatches", "interruptions"], COUNTS),
    )
    return st.builds(History, last_action_at=stamps, unpublished_task_id=texts, unpublished_at=stamps, **counts)


def runs(stamps=STAMPS, **given):
    facts = {
        "kind": st.just("order"),
        "pk": st.just("7"),
        "phase": st.sampled_from([Phase.RUNNING, Phase.QUEUED, *Phase]),
        "status": TEXTS,
        "task_id": IDS,
        "worker": WORKERS | TEXTS,
        "parent": st.sampled_from([None, "3"]),
        "parent_ended": st.sampled_from([False, False, False, True]),
        "exempt": st.sampled_from([False, False, False, False, True]),
        "history": st.just(History()) | histories(stamps),
        "skew": SKEWS,
        **dict.fromkeys(["created_at", "queued_at", "started_at", "progress_at"], stamps),
    }
    return st.builds(RunFacts, **{**facts, **given})


def evidences(stamps=STAMPS, **given):
    facts = {
        "holder": WORKERS,
        "absent": st.booleans(),
        "witness": WORKERS,
        "claimant_liveness": st.sampled_from(Liveness),
        "last_holder": WORKERS,
        "shutdown_announced": st.booleans(),
        "queue": TEXTS,
        "waiting": st.none() | COUNTS,
        "message_location": st.sampled_from(MessageLocation),
        "all_reported_since": st.booleans(),
        "retry_waiting": st.booleans(),
        "overtaken": st.booleans(),
        "uncertainties": st.lists(TEXTS, max_size=2).map(tuple),
        **dict.fromkeys(
            ["active_since", "fleet_watched_since", "claimant_seen_at", "claimant_listed_at", "first_sighting_at"],
            stamps,
        ),
    }
    return st.builds(Evidence, **{**facts, **given})


POLICIES = st.builds(
    Policy,
    run_timeout=SPANS,
    queue_timeout=SPANS,
    stall_timeout=st.none() | SPANS,
    orphan_grace=SPANS,
    lost_grace=SPANS,
    alert_after=SPANS,
    on_timeout=ENDINGS,
    on_orphan=ENDINGS,
    max_requeues=st.integers(0, 5),
    max_redispatches=st.integers(0, 5),
    max_interruptions=st.integers(0, 5),
    backoff=st.lists(SPANS, max_size=4).map(tuple),
)
always = settings(deadline=None, max_examples=50)
