"""The rules of a run that waits for a worker. No database."""

from dataclasses import replace

import pytest

from reaper.core.decisions import decide
from reaper.core.facts import Evidence, MessageLocation
from reaper.core.policy import Action, Policy
from tests.factories import NOW, SECOND
from tests.reaper.core.cases import (
    DAY,
    EVERY,
    HOUR,
    KEPT,
    LOST,
    MINUTE,
    NAMED,
    OVERTAKEN,
    REPEATS,
    RETURNS,
    STRANDED,
    STRANDED_BY_NAME,
    TICK,
    W1,
    W2,
    WAITING,
    decision_of,
    executed,
    never_sent,
    queued,
    row,
)


@pytest.mark.parametrize(
    ("run", "evidence", "policy", "fate"),
    [
        # timed_out: the claim hangs
        row("executed, at run_timeout", queued(DAY), "leave reserved", executed(HOUR)),
        row("executed, one second more", queued(DAY), "fail timed_out terminate", executed(HOUR + SECOND)),
        row("executed, may be repeated", queued(DAY), "requeue timed_out terminate", executed(DAY), REPEATS),
        row("executed, its clock is ahead", queued(DAY), "leave reserved", executed(-DAY)),
        row("young, but executed", queued(SECOND), "fail timed_out terminate", executed(HOUR + SECOND)),
        row("kept for long", queued(DAY), "leave reserved", KEPT),
        # reserved wins over what the broker says
        row("reserved", queued(MINUTE), "leave reserved", KEPT),
        row("reserved, within lost_grace", queued(), "leave reserved", KEPT),
        row("reserved, waiting too", queued(MINUTE), "leave reserved", replace(WAITING, holder=W1)),
        row("reserved, overtaken", queued(DAY), "leave reserved", replace(OVERTAKEN, holder=W1)),
        row("reserved, no task id", queued(DAY, task_id=""), "leave reserved", KEPT),
        # backlog
        row("waiting", queued(MINUTE), "leave backlog", WAITING),
        row("waiting, within lost_grace", queued(), "leave backlog", WAITING),
        row("waiting, for days", queued(9 * DAY), "leave backlog", WAITING),
        row("waiting, overtaken", queued(DAY), "leave backlog", replace(WAITING, overtaken=True)),
        row(
            "waiting, seen twice", queued(DAY), "leave backlog", replace(LOST, message_location=MessageLocation.WAITING)
        ),
        row(
            "waiting, nobody is alive", queued(DAY), "leave backlog", Evidence(message_location=MessageLocation.WAITING)
        ),
        # never_sent
        row("never sent, at lost_grace", never_sent(30 * SECOND), "leave within_grace"),
        row("never sent, one moment more", never_sent(30 * SECOND + TICK), "requeue never_sent"),
        row("never sent, one second more", never_sent(31 * SECOND), "requeue never_sent"),
        row("never sent, NULL", never_sent(31 * SECOND, task_id=None), "requeue never_sent"),
        row("never sent, made long ago, queued now", queued(created_at=NOW - DAY, task_id=""), "leave within_grace"),
        row("never sent, nothing is held", never_sent(DAY), "requeue never_sent", Evidence(absent=True, witness=W2)),
        row("sent", queued(31 * SECOND), "leave inconclusive"),
        # lost: in two looks
        row("lost, at lost_grace", queued(30 * SECOND), "leave within_grace", LOST),
        row("lost, one second more", queued(31 * SECOND), "requeue lost", LOST),
        row("lost, on one look", queued(DAY), "leave inconclusive", replace(LOST, first_sighting_at=None)),
        row(
            "lost, not all were heard since", queued(DAY), "leave inconclusive", replace(LOST, all_reported_since=False)
        ),
        row(
            "lost, it cannot be looked up",
            queued(MINUTE),
            "leave inconclusive",
            replace(LOST, message_location=MessageLocation.UNKNOWN),
        ),
        row("lost, of any kind", queued(MINUTE), "requeue lost", LOST, Policy(on_orphan=Action.FAIL)),
        row("lost, overtaken", queued(DAY), "requeue lost", replace(LOST, overtaken=True)),
        row(
            "lost, a dead worker had it, on one look",
            queued(DAY),
            "leave inconclusive",
            replace(NAMED, message_location=MessageLocation.ABSENT),
        ),
        # stranded: in two looks, or named by a dead worker
        row("stranded, at lost_grace", queued(30 * SECOND), "leave within_grace", STRANDED),
        row("stranded, one second more", queued(31 * SECOND), "requeue stranded", STRANDED),
        row("stranded, on one look", queued(DAY), "leave inconclusive", replace(STRANDED, first_sighting_at=None)),
        row(
            "stranded, not all were heard since",
            queued(DAY),
            "leave inconclusive",
            replace(STRANDED, all_reported_since=False),
        ),
        row("stranded by name, at lost_grace", queued(30 * SECOND), "leave within_grace", STRANDED_BY_NAME),
        row("stranded by name, one second more", queued(31 * SECOND), "requeue stranded", STRANDED_BY_NAME),
        row("named by a dead worker, not delivered", queued(DAY), "leave inconclusive", NAMED),
        # overtaken
        row("overtaken, at queue_timeout", queued(15 * MINUTE), "leave inconclusive", OVERTAKEN),
        row("overtaken, one second more", queued(15 * MINUTE + SECOND), "requeue overtaken", OVERTAKEN),
        row("old, not overtaken", queued(DAY), "leave inconclusive"),
        row(
            "overtaken, seen absent once",
            queued(DAY),
            "leave inconclusive",
            replace(OVERTAKEN, message_location=MessageLocation.ABSENT),
        ),
        row(
            "overtaken, delivered",
            queued(DAY),
            "leave inconclusive",
            replace(OVERTAKEN, message_location=MessageLocation.DELIVERED),
        ),
        row(
            "overtaken, nobody holds it", queued(DAY), "requeue overtaken", replace(OVERTAKEN, absent=True, witness=W2)
        ),
        # young: what an earlier attempt left behind is no age
        row("within_grace", queued(30 * SECOND), "leave within_grace"),
        row(
            "an earlier start", queued(SECOND, started_at=NOW - DAY, progress_at=NOW - DAY), "leave within_grace", LOST
        ),
        row("queued, by created", queued(queued_at=None, created_at=NOW - MINUTE), "requeue lost", LOST),
        # evidence of another phase
        row("queued, returns", queued(DAY), "leave inconclusive", RETURNS),
        *[
            row(f"queued, {name}", queued(DAY, worker=W1), "leave inconclusive", EVERY[name])
            for name in ("dead", "let go", "watched", "named")
        ],
    ],
)
def test_queued_run_gets_decision_of_table(run, evidence, policy, fate):
    assert decide(run, evidence, policy, NOW) == decision_of(fate)
