"""The project's settings, with limits that fit into minutes, and a kind that is requeued."""

from datetime import timedelta

from config.settings import *  # noqa: F403
from config.settings import REAPER

REAPER = {
    **REAPER,
    "RUN_TIMEOUT": timedelta(seconds=90),
    "KINDS": {"crawl_job": {"ON_ORPHAN": "requeue", "ON_TIMEOUT": "requeue"}},
    "BACKOFF": [5],
    # Far above what faults cause here.
    "MAX_REQUEUES": 3,
    "MAX_REDISPATCHES": 10,
    "MAX_INTERRUPTIONS": 10,
}
