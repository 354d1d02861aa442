"""Who lives, what they hold, and what of a report that cannot be believed."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.db.models import JSONField, Value

from reaper.models import WorkerHeartbeat
from reaper.workers import registry as workers
from reaper.workers.registry import is_alive
from tests.worlds import NOW, SECOND

pytestmark = pytest.mark.django_db

ROW = {
    "hostname": "celery@w1",
    "incarnation": "abc",
    "seen_at": NOW,
    "listed_at": NOW - SECOND,
    "since": NOW - 60 * SECOND,
    "active": {"a": 7.5},
    "held": ["b"],
    "queues": ["crawl"],
    "draining": False,
    "complete": True,
    "ended_at": None,
    "backend_pid": None,
    "backend_start": None,
}


def report(ago=timedelta(0), **fields):
    return WorkerHeartbeat.objects.create(**{**ROW, "seen_at": NOW - ago, **fields})


@pytest.mark.parametrize(
    ("silent", "session", "ended", "alive"),
    [
        (0, None, False, True),
        (12, None, False, True),
        (13, None, False, False),
        (12, True, False, True),
        (13, True, False, False),  # stopped, or cut off: its session is no proof of life
        (0, False, False, True),  # ended by hand a moment ago: it reports again
        (8, False, False, True),
        (9, False, False, False),
        (0, None, True, False),
        (0, True, True, False),
        (-30, None, False, True),
    ],
)
def test_who_lives(silent, session, ended, alive):
    assert is_alive(NOW if ended else None, NOW - silent * SECOND, session, NOW) is alive


def test_a_report_is_read_whole():
    report()
    (worker,) = workers.load_workers("default", NOW)
    assert worker == workers.Worker(
        hostname="celery@w1",
        incarnation="abc",
        seen_at=NOW,
        listed_at=NOW - SECOND,
        since=NOW - 60 * SECOND,
        active={"a": 7.5},
        held=frozenset("ab"),
        queues=frozenset({"crawl"}),
        draining=False,
        complete=True,
        ended_at=None,
        alive=True,
    )
    assert (worker.name, worker.skew) == ("celery@w1/abc", SECOND)


def test_two_workers_of_one_hostname_are_two():
    report(13 * SECOND)
    report(incarnation="def")
    assert {worker.name: worker.alive for worker in workers.load_workers("default", NOW)} == {
        "celery@w1/abc": False,
        "celery@w1/def": True,
    }


@pytest.mark.parametrize(
    ("garbage", "active", "held", "queues"),
    [
        ({"active": None}, {}, {"b"}, {"crawl"}),
        ({"active": ["a"]}, {}, {"b"}, {"crawl"}),
        ({"active": {"a": "soon", "c": 1, "d": True, "e": None}}, {"c": 1.0}, {*"abcde"}, {"crawl"}),
        ({"active": {"a": float("nan")}}, {}, {"a", "b"}, {"crawl"}),
        ({"held": None}, {"a": 7.5}, {"a"}, {"crawl"}),
        ({"held": "bcd"}, {"a": 7.5}, {"a"}, {"crawl"}),
        ({"held": {"b": 1}}, {"a": 7.5}, {"a"}, {"crawl"}),
        ({"held": ["b", 7, None, ["c"]]}, {"a": 7.5}, {"a", "b"}, {"crawl"}),
        ({"queues": None}, {"a": 7.5}, {"a", "b"}, set()),
        ({"queues": [{}, "mail"]}, {"a": 7.5}, {"a", "b"}, {"mail"}),
        ({"complete": None}, {"a": 7.5}, {"a", "b"}, {"crawl"}),
        ({"seen_at": NOW + 13 * SECOND}, {"a": 7.5}, {"a", "b"}, {"crawl"}),
        ({"seen_at": datetime(9999, 12, 31, tzinfo=UTC)}, {"a": 7.5}, {"a", "b"}, {"crawl"}),
        ({"listed_at": None}, {"a": 7.5}, {"a", "b"}, {"crawl"}),
        ({"since": None}, {"a": 7.5}, {"a", "b"}, {"crawl"}),
    ],
)
def test_of_a_report_that_is_wrong_the_rest_is_read_and_it_is_incomplete(garbage, active, held, queues):
    worker = workers.parse_worker({**ROW, **garbage}, {}, NOW)
    assert (worker.active, worker.held, worker.queues) == (active, held, queues)
    assert (worker.complete, worker.alive) == (False, True)


def test_a_worker_that_was_never_seen_is_dead():
    worker = workers.parse_worker({**ROW, "seen_at": None, "listed_at": None}, {}, NOW)
    assert (worker.alive, worker.complete, worker.skew) == (False, False, timedelta(0))


def test_a_report_written_while_now_was_read_is_believed():
    assert workers.parse_worker({**ROW, "seen_at": NOW + 12 * SECOND}, {}, NOW).complete


def test_json_null_and_unreadable_json_in_the_table_raise_nothing():
    null = Value(None, JSONField())
    report(active=null, held=null, queues=null)
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA ignore_check_constraints = ON")
            cursor.execute("UPDATE reaper_workerheartbeat SET active = '{\"a\": ', held = 'b'")
            cursor.execute("PRAGMA ignore_check_constraints = OFF")
    (worker,) = workers.load_workers("default", NOW)
    assert (worker.held, worker.complete, worker.alive) == (frozenset(), False, True)


# --- sessions -----------------------------------------------------------------------------------------------------


START = NOW - 60 * SECOND


@pytest.mark.parametrize(
    ("named", "there", "answer"),
    [
        ((None, None), {}, None),
        ((None, None), {7: START}, None),
        ((7, START), {}, False),
        ((7, START), {8: START}, False),
        ((7, START), {7: START}, True),
        ((7, START), {7: START + SECOND}, False),  # the number was given to another session since
        ((7, START), {7: None}, True),  # its start is hidden from this role
        ((7, None), {7: START}, True),
    ],
)
def test_whether_a_reports_session_is_still_there(named, there, answer):
    row = dict(zip(("backend_pid", "backend_start"), named, strict=True))
    assert workers.has_session(row, there) is answer


postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="only PostgreSQL shows its sessions")


@postgresql
def test_a_session_that_is_there_keeps_a_worker_alive_and_one_that_is_gone_does_not():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()")
        pid, start = cursor.fetchone()
    report(9 * SECOND, backend_pid=pid, backend_start=start)
    report(9 * SECOND, incarnation="gone", backend_pid=pid, backend_start=start - SECOND)
    report(8 * SECOND, incarnation="late", backend_pid=pid, backend_start=start - SECOND)
    report(9 * SECOND, incarnation="pooled")
    alive = {worker.incarnation: worker.alive for worker in workers.load_workers("default", NOW)}
    assert alive == {"abc": True, "gone": False, "late": True, "pooled": True}


@postgresql
def test_a_census_asks_twice_however_many_workers_there_are(django_assert_num_queries):
    WorkerHeartbeat.objects.bulk_create(
        WorkerHeartbeat(**{**ROW, "incarnation": str(number), "backend_pid": 10**9 + number, "backend_start": NOW})
        for number in range(300)
    )
    with django_assert_num_queries(2):
        assert len(workers.load_workers("default", NOW)) == 300


# --- pruning ------------------------------------------------------------------------------------------------------


def test_reports_of_the_long_silent_are_deleted_unless_a_run_names_them():
    day = timedelta(days=1)
    report(day + SECOND, incarnation="gone")
    report(day, incarnation="within_grace")
    report(day + SECOND, incarnation="named")
    report(day + SECOND, hostname="odd/host@x", incarnation="named too")
    workers.prune("default", NOW, {"celery@w1/named", "odd/host@x/named too"})
    assert set(WorkerHeartbeat.objects.values_list("incarnation", flat=True)) == {"within_grace", "named", "named too"}
