"""The plans that PostgreSQL makes for the queries of a sweep and the writes of a worker, at the size of the table."""

import json
import re
from typing import Any

from django.db import connection

from apps.sources import claims
from apps.sources.models import CrawlJob
from tools.bench import tables
from tools.bench.measures import sweep_all

LARGE = ("crawl_jobs", "crawl_job_source_results")


def whole_tables(rows: int) -> int:
    """Return how many of these statements read one of the host's tables as a whole, and print each of them."""
    tables.stick(rows)
    pk = CrawlJob.objects.filter(status="running").values_list("pk", flat=True)[0]
    with connection.execute_wrapper(recorder := StatementRecorder()):
        hold = claims.Claim(model=CrawlJob, pk=pk, task_id=CrawlJob.objects.get(pk=pk).task_id, worker="")
        hold.progress({"pages": 1})
        hold.complete({"pages": 1})
        sweep_all()
    tables.stick(rows)
    assert len(recorder.statements) > len(LARGE)
    whole = [shape for shape, statement in recorder.statements.items() if reads_all(*statement)]
    for shape in whole:
        print(f"reads a whole table: {shape[:500]}")
    return len(whole)


class StatementRecorder:
    """Records the first statement of each shape with its values."""

    def __init__(self) -> None:
        self.statements: dict[str, tuple[str, Any]] = {}

    def __call__(self, execute: Any, sql: str, params: Any, *rest: Any) -> Any:
        """Record one statement (an `execute_wrapper`)."""
        if sql.startswith(("SELECT", "UPDATE", "DELETE")):
            self.statements.setdefault(re.sub(r"(%s[, ]*|WHEN|THEN)+", "%s ", sql), (sql, params))
        return execute(sql, params, *rest)


def reads_all(sql: str, params: Any) -> bool:
    """Return whether a statement's plan has a sequential scan of one of the host's tables."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", params)
        (plan,) = cursor.fetchone()
    return has_scan((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])


def has_scan(node: dict[str, Any]) -> bool:
    """Return whether the node or one below it is such a scan."""
    here = node["Node Type"] == "Seq Scan" and node["Relation Name"] in LARGE
    return here or any(has_scan(child) for child in node.get("Plans", []))
