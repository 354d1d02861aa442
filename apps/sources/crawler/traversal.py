"""Crawl a site: breadth first from its start page."""

import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import httpx

from apps.sources.crawler import urls
from apps.sources.crawler.errors import ConfigError, CrossSiteRedirect, NotThere, PageError
from apps.sources.crawler.limits import Limits
from apps.sources.crawler.page import Page, read_page
from apps.sources.crawler.site import Site

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Totals:
    """What a crawl has counted so far."""

    pages: int = 0
    """Pages tried, failed ones included."""
    found: int = 0
    """Pages with text."""
    new: int = 0
    """Pages with a text that this crawl had not met before."""
    duplicates: int = 0
    """Pages with a text that this crawl had met before."""
    errors: int = 0
    """Pages that could not be fetched or used."""


class Crawl:
    """One crawl under way: the pages to visit, and the URLs and texts met so far."""

    def __init__(self, limits: Limits, site: Site, seen_urls: set[str]) -> None:
        self.limits = limits
        self.site = site
        self.delay = max(limits.delay.total_seconds(), site.crawl_delay)
        self.seen_urls = seen_urls
        self.seen_texts: set[str] = set()
        self.queue: deque[tuple[str, int]] = deque()
        self.totals = Totals()

    def run(self, start: Page) -> Iterator[Totals]:
        """Yield the totals after every page that was tried, the start page first."""
        self._add(start)
        yield self.totals
        while self.queue and self.totals.pages < self.limits.max_pages:
            url, depth = self.queue.popleft()
            time.sleep(self.delay)
            try:
                self._add(read_page(self.site.get(url), depth))
            except PageError as error:
                logger.debug("%s", error)
                self.totals = replace(self.totals, pages=self.totals.pages + 1, errors=self.totals.errors + 1)
            yield self.totals

    def _add(self, page: Page) -> None:
        """Count a page, and queue its links."""
        logger.debug("%s", page)
        self.seen_urls.add(page.url)
        has_text = bool(page.text_hash)
        is_duplicate = page.text_hash in self.seen_texts
        if has_text:
            self.seen_texts.add(page.text_hash)
        self.totals = replace(
            self.totals,
            pages=self.totals.pages + 1,
            found=self.totals.found + has_text,
            new=self.totals.new + (has_text and not is_duplicate),
            duplicates=self.totals.duplicates + is_duplicate,
        )
        if page.depth < self.limits.max_depth:
            self._queue_links(page)

    def _queue_links(self, page: Page) -> None:
        for link in page.links:
            # What cannot be visited any more is not kept: a page may have more links than memory should hold.
            if self.totals.pages + len(self.queue) >= self.limits.max_pages:
                break
            if link not in self.seen_urls and self.site.allows(link):
                self.seen_urls.add(link)
                self.queue.append((link, page.depth + 1))


def crawl(url: str, limits: Limits) -> Iterator[Totals]:
    """Crawl the site of a URL; yield the totals after every page that was tried. Raises `CrawlError`.

    A page that fails is counted and ends nothing; the caller may stop at any time. An exception that a signal raises
    in the middle, like a task's soft time limit, goes through.
    """
    site, start = _fetch_start(url, limits)
    yield from Crawl(limits, site, {urls.normalize(url)}).run(start)


def _fetch_start(url: str, limits: Limits) -> tuple[Site, Page]:
    """Return the site and its start page. A redirect to another host makes that one the site. Raises `CrawlError`."""
    try:
        start_url = urls.normalize(url)
    except (ValueError, httpx.InvalidURL) as error:
        raise ConfigError(f"{url!r} is no URL: {error}.") from error
    tls = httpx.create_ssl_context(trust_env=False)
    try:
        for _ in range(limits.max_redirects + 1):
            site = Site(start_url, limits, tls)
            try:
                return site, read_page(site.get(start_url), depth=0)
            except CrossSiteRedirect as redirect:
                start_url = redirect.url
        raise PageError(f"{url} redirects from host to host, more than {limits.max_redirects} times", NotThere)
    except PageError as error:
        raise error.as_crawl_error(f"{error}.") from error
