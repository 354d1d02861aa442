"""What jobs and the children of jobs have in common: each is a run, in a table of its own."""

from collections.abc import Mapping

from apps.sources.models import CrawlJob, CrawlJobSourceResult

Run = type[CrawlJob] | type[CrawlJobSourceResult]
# The statuses of an unfinished run are the same words in both tables.
PENDING = "pending"
RUNNING = "running"

# Column names of the totals: what a crawl counts -> the table's own name.
TOTALS: dict[Run, dict[str, str]] = {
    CrawlJob: {
        "pages": "pages_crawled",
        "found": "total_found",
        "new": "new_articles",
        "duplicates": "duplicates",
        "errors": "errors",
    },
    CrawlJobSourceResult: {
        "pages": "pages_crawled",
        "found": "articles_found",
        "new": "articles_new",
        "duplicates": "articles_duplicate",
        "errors": "errors_count",
    },
}


def columns(model: Run, totals: Mapping[str, int]) -> dict[str, int]:
    """Return the totals under the table's own column names."""
    return {TOTALS[model][name]: count for name, count in totals.items()}
