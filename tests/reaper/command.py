"""The command as manage.py runs it, and the runs that its tests are about."""

import json
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import NamedTuple

from django.db import connection
from freezegun import freeze_time

from apps.sources.models import CrawlJob
from reaper.management.commands.reaper import Command
from tests.factories import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    child,
    held_job,
    lost_job,
    orphan,
    parent,
    queued_job,
    running_job,
)

MISSING = "00000000-0000-0000-0000-000000000000"


class Answer(NamedTuple):
    code: int
    out: str
    err: str


def reaper(*words, at=NOW):
    """`manage.py reaper …`, in a pipe."""
    code, out, err = 0, StringIO(), StringIO()
    with freeze_time(at), redirect_stdout(out), redirect_stderr(err):
        try:
            Command().run_from_argv(["manage.py", "reaper", *words])
        except SystemExit as end:
            code = end.code
    return Answer(code, out.getvalue(), err.getvalue())


def reaper_json(*words):
    """The exit code and the JSON of `manage.py reaper … --json`."""
    answer = reaper(*words, "--json")
    return answer.code, json.loads(answer.out)


def stuck_runs():
    """One run of every fate, by the reason that a sweep gives; `held` is left alone."""
    return {
        "timed_out": running_job(HOUR + SECOND),
        "orphaned": orphan(),
        "lost": lost_job(),
        "never_sent": queued_job(31 * SECOND, task_id=""),
        "parent_ended": child(parent("completed", status="cancelled", finalized_at=NOW), "pending"),
        "children_ended": parent("completed", "completed"),
        "in_progress": held_job(31 * MINUTE),
    }


def named(run):
    """KIND:ID."""
    return f"{'crawl_job' if isinstance(run, CrawlJob) else 'source_result'}:{run.pk}"


def everything():
    """Every row of every table."""
    rows = {}
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names():
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")  # noqa: S608 (names of our own tables)
            rows[table] = sorted(map(repr, cursor.fetchall()))
    return rows
