"""Run by another interpreter, which has chancy: its Recovery plugin over so many abandoned jobs."""

import asyncio
import json
import sys
import time

from chancy import Chancy, Worker
from chancy.plugins.recovery import Recovery
from psycopg.rows import dict_row

ABANDON = """
INSERT INTO chancy_jobs (id, queue, func, state, taken_by, started_at)
SELECT gen_random_uuid(), 'default', 'work', 'running', 'dead', now() - interval '10 min'
FROM generate_series(1, %s::integer)
"""


async def main(dsn: str, jobs: int) -> dict[str, float]:
    """Return the seconds of putting all abandoned jobs back into their queue."""
    async with Chancy(dsn) as app:
        await app.migrate()
        worker = Worker(app)
        async with app.pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute("DELETE FROM chancy_jobs")
            await cursor.execute(ABANDON, [jobs])
            await connection.commit()
            begin = time.perf_counter()
            recovered = await Recovery.recover(worker, app, cursor)
            await connection.commit()
            took = time.perf_counter() - begin
            assert recovered == jobs
    return {"retry": took}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], int(sys.argv[2])))))
