"""The workers as they are stored, and heartbeats with malformed values."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.db.models import JSONField, Value

from reaper.models import WorkerHeartbeat
from reaper.workers.registry import Worker, load_workers, parse_worker, prune
from tests.factories import NOW, SECOND

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


def test_heartbeat_is_parsed_completely():
    report()
    (worker,) = load_workers("default", NOW)
    assert worker == Worker(
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
    assert worker.name == "celery@w1/abc"
    assert worker.skew == SECOND


def test_two_workers_of_one_hostname_are_kept_apart():
    report(13 * SECOND)
    report(incarnation="def")
    assert {worker.name: worker.alive for worker in load_workers("default", NOW)} == {
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
def test_malformed_heartbeat_is_incomplete_and_its_rest_is_parsed(garbage, active, held, queues):
    worker = parse_worker({**ROW, **garbage}, {}, NOW)
    assert worker.active == active
    assert worker.held == held
    assert worker.queues == queues
    assert worker.complete is False
    assert worker.alive is True


def test_worker_without_timestamps_is_dead():
    worker = parse_worker({**ROW, "seen_at": None, "listed_at": None}, {}, NOW)
    assert worker.alive is False
    assert worker.complete is False
    assert worker.skew == timedelta(0)


def test_heartbeat_up_to_12s_ahead_is_accepted():
    assert parse_worker({**ROW, "seen_at": NOW + 12 * SECOND}, {}, NOW).complete


def test_null_and_unreadable_json_columns_raise_nothing():
    null = Value(None, JSONField())
    report(active=null, held=null, queues=null)
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA ignore_check_constraints = ON")
            cursor.execute("UPDATE reaper_workerheartbeat SET active = '{\"a\": ', held = 'b'")
            cursor.execute("PRAGMA ignore_check_constraints = OFF")
    (worker,) = load_workers("default", NOW)
    assert worker.held == frozenset()
    assert worker.complete is False
    assert worker.alive is True


postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="only PostgreSQL shows its sessions")


@postgresql
def test_existing_session_keeps_a_silent_worker_alive():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()")
        pid, start = cursor.fetchone()
    report(9 * SECOND, backend_pid=pid, backend_start=start)
    report(9 * SECOND, incarnation="gone", backend_pid=pid, backend_start=start - SECOND)
    report(8 * SECOND, incarnation="late", backend_pid=pid, backend_start=start - SECOND)
    report(9 * SECOND, incarnation="pooled")
    alive = {worker.incarnation: worker.alive for worker in load_workers("default", NOW)}
    assert alive == {"abc": True, "gone": False, "late": True, "pooled": True}


@postgresql
def test_load_workers_runs_two_queries_for_any_number(django_assert_num_queries):
    WorkerHeartbeat.objects.bulk_create(
        WorkerHeartbeat(**{**ROW, "incarnation": str(number), "backend_pid": 10**9 + number, "backend_start": NOW})
        for number in range(300)
    )
    with django_assert_num_queries(2):
        assert len(load_workers("default", NOW)) == 300


def test_old_heartbeats_are_pruned_unless_a_run_names_them():
    day = timedelta(days=1)
    report(day + SECOND, incarnation="gone")
    report(day, incarnation="within_grace")
    report(day + SECOND, incarnation="named")
    report(day + SECOND, hostname="odd/host@x", incarnation="named too")
    prune("default", NOW, {"celery@w1/named", "odd/host@x/named too"})
    assert set(WorkerHeartbeat.objects.values_list("incarnation", flat=True)) == {"within_grace", "named", "named too"}
