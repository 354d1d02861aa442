"""Run by another interpreter, which has procrastinate: the loop of its manual over so many stalled jobs.

Its manual has a periodic task that asks for the stalled jobs and retries each of them.
"""

import asyncio
import json
import sys
import time
from typing import Any

import procrastinate
from procrastinate.jobs import Status

STALL = """
INSERT INTO procrastinate_jobs (queue_name, task_name, status, worker_id, args)
SELECT 'default', 'work', 'doing', NULL, '{}' FROM generate_series(1, %(jobs)s)
"""


async def main(dsn: str, jobs: int) -> dict[str, float]:
    """Return the seconds of retrying and of failing all stalled jobs."""
    took = {}
    connector = procrastinate.PsycopgConnector(conninfo=dsn)
    async with procrastinate.App(connector=connector).open_async() as app:
        await app.schema_manager.apply_schema_async()

        async def retry(job: Any) -> None:
            await app.job_manager.retry_job(job)

        async def fail(job: Any) -> None:
            await app.job_manager.finish_job(job, status=Status.FAILED, delete_job=False)

        for name, end in (("retry", retry), ("fail", fail)):
            await app.connector.execute_query_async("DELETE FROM procrastinate_events; DELETE FROM procrastinate_jobs")
            await app.connector.execute_query_async(STALL, jobs=jobs)
            begin = time.perf_counter()
            stalled = list(await app.job_manager.get_stalled_jobs())
            for job in stalled:
                await end(job)
            took[name] = time.perf_counter() - begin
            assert len(stalled) == jobs
    return took


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], int(sys.argv[2])))))
