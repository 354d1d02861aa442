"""How old a run is, how long it has been quiet, and what evidence amounts to. No database."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from reaper.core.facts import MAX_CLOCK_AHEAD, NO_EVIDENCE, Evidence, History, Phase, RunFacts, hostname
from tests.factories import NOW, SECOND

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
YEAR_ONE, END_OF_TIME = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
FAR = MAX_CLOCK_AHEAD + SECOND
BY = ("started_at", "progress_at", "queued_at", "created_at")


def run(phase=Phase.RUNNING, *, acted=None, skew=timedelta(0), **ago):
    """A run whose stamps lie this far back; `started=MINUTE` is one that was started a minute ago."""
    stamps = {f"{name}_at": NOW - value for name, value in ago.items()}
    history = History() if acted is None else History(requeues=1, last_action_at=NOW - acted)
    return RunFacts(kind="order", pk="7", phase=phase, history=history, skew=skew, **stamps)


@pytest.mark.parametrize(
    ("facts", "age"),
    [
        ({}, None),
        ({"started": MINUTE, "progress": SECOND, "queued": HOUR, "created": DAY}, MINUTE),
        ({"progress": MINUTE, "queued": HOUR, "created": DAY}, MINUTE),
        ({"queued": HOUR, "created": DAY}, HOUR),
        ({"created": DAY}, DAY),
        ({"acted": MINUTE, "created": DAY}, MINUTE),
        ({"queued": HOUR, "acted": MINUTE, "created": DAY}, HOUR),
        # ahead: within an hour it is now, beyond it is no time at all
        ({"started": -SECOND, "queued": DAY}, timedelta(0)),
        ({"started": -MAX_CLOCK_AHEAD, "queued": DAY}, timedelta(0)),
        ({"started": -FAR, "queued": DAY}, DAY),
        ({"started": -FAR, "progress": -FAR, "queued": -FAR, "acted": -FAR, "created": -FAR}, None),
        # skew puts the worker's stamps right, and only those
        ({"started": HOUR, "queued": HOUR, "skew": MINUTE}, HOUR - MINUTE),
        ({"started": HOUR, "skew": -MINUTE}, HOUR + MINUTE),
        ({"started": -FAR, "queued": DAY, "skew": -2 * HOUR}, HOUR - SECOND),
        ({"progress": HOUR, "queued": DAY, "skew": -MINUTE}, HOUR + MINUTE),
        ({"queued": HOUR, "skew": MINUTE}, HOUR),
        ({"started": HOUR, "skew": timedelta.max}, HOUR),
    ],
)
def test_age_of_running_run_is_taken_from_best_timestamp(facts, age):
    assert run(**facts).age(NOW) == age
    assert run(**facts).phase_since(NOW) == (None if age is None else NOW - age)


@pytest.mark.parametrize(
    ("facts", "age"),
    [
        ({}, None),
        ({"started": DAY, "progress": DAY}, None),
        ({"started": DAY, "progress": DAY, "queued": MINUTE, "created": DAY}, MINUTE),
        ({"acted": MINUTE, "created": DAY}, MINUTE),
        ({"created": DAY, "skew": HOUR}, DAY),
        ({"queued": -SECOND, "created": DAY}, timedelta(0)),
        ({"queued": -FAR, "created": DAY}, DAY),
    ],
)
def test_age_of_queued_run_is_taken_from_best_timestamp(facts, age):
    assert run(Phase.QUEUED, **facts).age(NOW) == age


@pytest.mark.parametrize(
    ("facts", "quiet"),
    [
        ({}, None),
        ({"started": HOUR, "queued": DAY}, HOUR),
        ({"started": HOUR, "progress": MINUTE}, MINUTE),
        ({"started": MINUTE, "progress": HOUR}, MINUTE),
        ({"progress": MINUTE, "queued": DAY}, MINUTE),
        ({"queued": DAY}, DAY),
        ({"created": DAY}, DAY),
        ({"started": HOUR, "progress": timedelta(0)}, timedelta(0)),
        ({"started": HOUR, "progress": -MAX_CLOCK_AHEAD}, timedelta(0)),
        # Progress that nobody can believe is none.
        ({"started": HOUR, "progress": -FAR}, HOUR),
        ({"started": -FAR, "queued": DAY}, DAY),
        ({"started": HOUR, "progress": MINUTE, "skew": -MINUTE}, 2 * MINUTE),
        ({"started": HOUR, "progress": -FAR, "skew": -2 * HOUR}, HOUR - SECOND),
        ({"started": HOUR, "skew": timedelta.min}, HOUR),
    ],
)
def test_idle_for_is_time_since_last_activity(facts, quiet):
    assert run(**facts).idle_for(NOW) == quiet


@pytest.mark.parametrize("name", BY)
@pytest.mark.parametrize("skew", [timedelta.min, timedelta(0), timedelta.max])
@pytest.mark.parametrize("edge", [YEAR_ONE, END_OF_TIME])
def test_extreme_timestamp_and_skew_do_not_raise(name, skew, edge):
    odd = replace(run(skew=skew), **{name: edge})
    long_ago = edge is YEAR_ONE
    assert (odd.age(NOW) is not None) == long_ago
    assert (odd.idle_for(NOW) is not None) == long_ago


def test_last_activity_at_ignores_skew():
    """It is compared with the worker's own listing of its tasks, by the same clock."""
    assert run(started=HOUR, progress=MINUTE, skew=DAY).last_activity_at == NOW - MINUTE
    assert run(started=MINUTE, progress=HOUR).last_activity_at == NOW - MINUTE
    assert run(queued=HOUR).last_activity_at is None


GONE = Evidence(absent=True, witness="celery@w2/def")
TWICE = Evidence(first_sighting_at=NOW, all_reported_since=True)


def test_surely_absent_needs_absence_and_witness_and_no_holder():
    assert GONE.is_surely_absent
    assert not replace(GONE, absent=False).is_surely_absent
    assert not replace(GONE, witness="").is_surely_absent
    assert not replace(GONE, holder="celery@w1/abc").is_surely_absent
    assert not NO_EVIDENCE.is_surely_absent


def test_confirmed_needs_sighting_and_report_of_all_workers():
    assert TWICE.is_confirmed
    assert not replace(TWICE, first_sighting_at=None).is_confirmed
    assert not replace(TWICE, all_reported_since=False).is_confirmed
    assert not NO_EVIDENCE.is_confirmed


@pytest.mark.parametrize(
    ("worker", "name"),
    [
        ("celery@w1/abc", "celery@w1"),
        ("celery@w1", "celery@w1"),
        ("celery@a/b/abc", "celery@a/b"),
        ("", ""),
        ("/", "/"),
    ],
)
def test_hostname_is_worker_without_incarnation(worker, name):
    assert hostname(worker) == name
