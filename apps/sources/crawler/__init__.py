"""Crawls one site: same-host links, breadth first, within limits. It fetches pages and knows no database.

Do not read this package first: it is the work that the example host's tasks do, and has nothing to do with the reaper.
"""

from apps.sources.crawler.errors import ConfigError, CrawlError, Forbidden, NotThere, Unreachable
from apps.sources.crawler.limits import Limits
from apps.sources.crawler.traversal import Totals, crawl

__all__ = ["ConfigError", "CrawlError", "Forbidden", "Limits", "NotThere", "Totals", "Unreachable", "crawl"]
