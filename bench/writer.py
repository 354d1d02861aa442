"""Run as a process of its own: a worker that goes on writing to the runs that are reaped meanwhile.

In a thread of the reaper's own process it would wait for Python's lock, and not for the database's.
"""

import json
import random
import select
import sys
import time

import psycopg2

# How long it waits between two writes, in seconds.
BETWEEN = 0.005
# Whether the run is still running or just not any more: the write is the same.
WRITE = "UPDATE crawl_jobs SET heartbeat_at = now() WHERE id = %s AND status = 'running'"


def main(dsn: str) -> list[float]:
    """Write until the input ends; return the milliseconds of every write."""
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    took = []
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM crawl_jobs WHERE status = 'running'")
        pks = [pk for (pk,) in cursor.fetchall()]
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], BETWEEN)[0]:
            pk = random.choice(pks)
            begin = time.perf_counter()
            cursor.execute(WRITE, [pk])
            took.append((time.perf_counter() - begin) * 1000)
    connection.close()
    return took


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
