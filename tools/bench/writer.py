"""Runs as its own process: a worker that writes to runs while they are reaped, and to others.

In a thread of the reaper's process it would wait for Python's lock instead of the database's. The writes to the other
runs show what server and disk take during a sweep without any lock.
"""

import json
import random
import select
import sys
import time

import psycopg2

# How long it waits between two writes, in seconds.
BETWEEN = 0.005
# The write is the same whether or not the run is still running.
WRITE = "UPDATE crawl_jobs SET heartbeat_at = now() WHERE id = %s AND status = 'running'"
OTHER = "UPDATE crawl_jobs SET heartbeat_at = now() WHERE id = %s AND status = 'completed'"
REAPED = "SELECT id FROM crawl_jobs WHERE status = 'running'"
LEFT = "SELECT id FROM crawl_jobs WHERE source_id IS NOT NULL AND status = 'completed' ORDER BY id DESC LIMIT %s"


def main(dsn: str) -> tuple[list[float], list[float]]:
    """Write until the input ends; return the milliseconds of every write to the reaped runs, and to the others."""
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    took: tuple[list[float], list[float]] = ([], [])
    with connection.cursor() as cursor:
        cursor.execute(REAPED)
        reaped = [pk for (pk,) in cursor.fetchall()]
        cursor.execute(LEFT, [len(reaped)])
        left = [pk for (pk,) in cursor.fetchall()]
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], BETWEEN)[0]:
            for sql, pks, milliseconds in ((WRITE, reaped, took[0]), (OTHER, left, took[1])):
                pk = random.choice(pks)
                begin = time.perf_counter()
                cursor.execute(sql, [pk])
                milliseconds.append((time.perf_counter() - begin) * 1000)
    connection.close()
    return took


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
