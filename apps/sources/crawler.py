"""Crawls one site: same-host links, breadth first, within limits. Fetches pages only; it knows no database.

Only http and https; what a site's address may be is `network.py`'s.
"""

import hashlib
import logging
import re
import ssl
import time
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from itertools import islice
from typing import Any
from urllib.parse import urljoin

import httpcore
import httpx
from protego import Protego
from selectolax.lexbor import LexborHTMLParser

from apps.sources.network import (
    ConfigError,
    CrossSiteRedirect,
    Forbidden,
    Network,
    NotThere,
    PageError,
    Unreachable,
)

logger = logging.getLogger(__name__)

# Seconds. A robots.txt may ask for any delay; waiting longer per page would only hold a worker.
MAX_CRAWL_DELAY = 10.0
# What RFC 9309 asks a crawler to read at least.
ROBOTS_BYTES = 512 * 1024
# Deep nesting costs the parser quadratic time in C, where no deadline reaches it: 40,000 tags took 3.5 s, 200,000 did
# not end in 100 s.
MAX_TAGS = 30_000
# The least and the most that a source may ask for; of timedeltas in seconds.
BOUNDS = {
    "max_pages": (1, 100_000),
    "max_depth": (0, 100),
    "page_timeout": (0.1, 3600),
    "max_page_bytes": (1, 100 * 1024 * 1024),
    "max_redirects": (0, 20),
    "delay": (0, 60),
}
# Named one by one: a task's soft time limit is an Exception too and must get through.
HTTP = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException)
FAILURES = (*HTTP, httpx.InvalidURL, zlib.error, OSError, ValueError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How far a crawl may go. A source's `crawler_config` sets any of them but `allow_private`."""

    # Pages tried, failed ones included: a few minutes at a second each, well within a task's time limit.
    max_pages: int = 100
    # Links away from the start page, which is 0.
    max_depth: int = 3
    # For a whole page, its redirects included: also for a server that sends one byte a second.
    page_timeout: timedelta = timedelta(seconds=10)
    # Bytes after decompression. A page of text is smaller; what is larger is not read to its end.
    max_page_bytes: int = 2 * 1024 * 1024
    # Hops from one URL, and hosts that a start page may pass through.
    max_redirects: int = 5
    # Between two pages; robots.txt may ask for more.
    delay: timedelta = timedelta(0)
    # Only for a site that is the operator's own; a source cannot ask for it.
    allow_private: bool = False
    # Sent to the site, and looked for in its robots.txt.
    user_agent: str = "django-celery-reaper-crawler"

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **defaults: Any) -> "Limits":
        """Return the defaults with a source's values, durations in seconds. Raises `ConfigError`."""
        if not isinstance(config, Mapping):
            raise ConfigError(f"crawler_config is {config!r}; it must be an object of settings.")
        base = cls(**defaults)
        known = {field.name for field in fields(cls)} - {"allow_private"}
        for key, value in config.items():
            if key not in known:
                raise ConfigError(
                    f"crawler_config has no setting {key!r} (it is {value!r}); it may have {', '.join(sorted(known))}."
                )
        return replace(base, **{key: _coerce(key, value, getattr(base, key)) for key, value in config.items()})


def _coerce(key: str, value: Any, default: Any) -> Any:
    """Return the value as the default's type, when it is within bounds. Raises `ConfigError`."""
    if isinstance(default, str):
        if isinstance(value, str) and value.isascii() and value.isprintable() and value and value == value.strip():
            return value
        raise ConfigError(f"crawler_config[{key!r}] is {value!r}; it must be a printable ASCII text.")
    least, most = BOUNDS[key]
    whole = isinstance(default, int)
    number = not isinstance(value, bool) and isinstance(value, int if whole else int | float)
    if not number or not least <= value <= most:
        kind = "a whole number" if whole else "a number of seconds"
        raise ConfigError(f"crawler_config[{key!r}] is {value!r}; it must be {kind} from {least} to {most}.")
    return value if whole else timedelta(seconds=value)


@dataclass(frozen=True, slots=True)
class Totals:
    """What a crawl has counted so far: pages tried, pages with text (new or seen before in this crawl), errors."""

    pages: int = 0
    found: int = 0
    new: int = 0
    duplicates: int = 0
    errors: int = 0

    def plus(self, text_hash: str, seen: set[str]) -> "Totals":
        """Return the totals with one more page; `seen`, the hashes before it, gets its hash, '' for no text."""
        again = text_hash in seen
        found = bool(text_hash)
        if found:
            seen.add(text_hash)
        return Totals(
            self.pages + 1, self.found + found, self.new + (found and not again), self.duplicates + again, self.errors
        )


@dataclass(frozen=True, slots=True)
class Page:
    """One page as read. `text_hash`: SHA-256 of its visible text, white space folded; '' without text."""

    url: str
    depth: int
    status: int
    title: str
    text_hash: str
    links: int


@dataclass(frozen=True, slots=True)
class Response:
    """An answer that is no redirect. `kind`: its content type; `body`: decompressed."""

    url: str
    status: int
    kind: str
    body: bytes


def crawl(url: str, limits: Limits) -> Iterator[Totals]:
    """Crawl the site of a URL; yield the totals after every page that was tried. Raises `CrawlError`.

    A page that fails is counted and ends nothing; the caller may stop at any time. An exception that a signal raises
    in the middle, like a task's soft time limit, goes through.
    """
    site, answer = _start(url, limits)
    delay = max(limits.delay.total_seconds(), site.crawl_delay)
    seen_urls, seen_texts = {_clean(url), answer.url}, set[str]()
    queue: deque[tuple[str, int]] = deque([(answer.url, 0)])
    totals = Totals()
    while queue and totals.pages < limits.max_pages:
        at, depth = queue.popleft()
        links: Iterable[str] = ()
        try:
            if totals.pages:
                time.sleep(delay)
                answer = site.get(at)
            page, links = read(answer, depth)
            logger.debug("%s", page)
            seen_urls.add(answer.url)
            totals = totals.plus(page.text_hash, seen_texts)
        except PageError as error:
            logger.debug("%s", error)
            totals = replace(totals, pages=totals.pages + 1, errors=totals.errors + 1)
        for link in links if depth < limits.max_depth else ():
            # What cannot be visited any more is not kept: a page may have more links than memory should hold.
            if totals.pages + len(queue) >= limits.max_pages:
                break
            if link not in seen_urls and site.allows(link):
                seen_urls.add(link)
                queue.append((link, depth + 1))
        yield totals


def _start(url: str, limits: Limits) -> tuple["Site", Response]:
    """Return the site and its start page. A redirect to another host makes that one the site. Raises `CrawlError`."""
    try:
        at = _clean(url)
    except (ValueError, httpx.InvalidURL) as error:
        raise ConfigError(f"{url!r} is no URL: {error}.") from error
    tls = httpx.create_ssl_context(trust_env=False)
    try:
        for _ in range(limits.max_redirects + 1):
            site = Site(at, limits, tls)
            try:
                answer = site.get(at)
            except CrossSiteRedirect as elsewhere:
                at = elsewhere.url
                continue
            read(answer, 0)
            return site, answer
        raise PageError(f"{url} redirects from host to host, more than {limits.max_redirects} times", NotThere)
    except PageError as error:
        raise error.fate(f"{error}.") from error


def read(answer: Response, depth: int) -> tuple[Page, Iterable[str]]:
    """Return a page and its links, absolute and not yet checked. Raises `PageError` for one that is no use."""
    if answer.status >= 400:
        # 408 and 429 are about now, not about the page.
        lasting = answer.status < 500 and answer.status not in (408, 429)
        raise PageError(f"{answer.url} answered {answer.status}", NotThere if lasting else Unreachable)
    if answer.kind not in ("text/html", "application/xhtml+xml"):
        return Page(answer.url, depth, answer.status, "", "", 0), ()
    html = _decoded(answer.body)
    if sum(1 for _ in islice(re.finditer("<[A-Za-z]", html), MAX_TAGS + 1)) > MAX_TAGS:
        raise PageError(f"{answer.url} has more than {MAX_TAGS} tags", NotThere)
    tree = LexborHTMLParser(html)
    hrefs = [node.attributes.get("href") or "" for node in tree.css("a[href]")]
    base = tree.css_first("base[href]")
    at = (_joined(answer.url, base.attributes.get("href") or "") if base else "") or answer.url
    title = tree.css_first("title")
    name = " ".join(title.text().split()) if title else ""
    tree.strip_tags(["script", "style", "template", "noscript"])
    text = " ".join((tree.body.text(separator=" ") if tree.body else "").split())
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() if text else ""
    links = list(filter(None, (_joined(at, href) for href in hrefs)))
    return Page(answer.url, depth, answer.status, name, digest, len(links)), links


def _decoded(body: bytes) -> str:
    """Return the text. What is not UTF-8 keeps its bytes apart, which is enough to tell texts from each other."""
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        return body.decode("latin-1")


def _joined(base: str, link: str) -> str:
    """Return a link as an absolute URL; '' for one that is none."""
    try:
        return _clean(urljoin(base, link.strip()))
    except (ValueError, httpx.InvalidURL):
        return ""


def _clean(url: str) -> str:
    """Return the URL as it is compared: without fragment and user. Raises ValueError or `httpx.InvalidURL`."""
    parsed = httpx.URL(url).copy_with(fragment=None, userinfo=b"")
    if (parsed.port or 0) > 65535:
        raise ValueError(f"there is no port {parsed.port}")
    # "http://host" and "http://host/" are one page.
    return str(parsed.copy_with(raw_path=parsed.raw_path) if parsed.raw_host else parsed)


def site_of(url: str) -> tuple[str, int | None]:
    """Return what makes two URLs the same site: host and port (None: the scheme's own)."""
    parsed = httpx.URL(url)
    # Not `host`, which raises for a malformed international name.
    return parsed.raw_host.decode(), parsed.port


class Site:
    """One host: fetches its pages within the limits. Made of a URL, whose robots.txt it loads. Raises `PageError`."""

    def __init__(self, url: str, limits: Limits, tls: ssl.SSLContext) -> None:
        self.key, self.limits, self.tls = site_of(url), limits, tls
        self.rules = self._robots(url)
        self.crawl_delay = min(float(self.rules.crawl_delay(limits.user_agent) or 0), MAX_CRAWL_DELAY)

    def allows(self, url: str) -> bool:
        """True for a URL of this site that robots.txt does not forbid."""
        at_home = url.startswith(("http:", "https:")) and site_of(url) == self.key
        return at_home and self.rules.can_fetch(url, self.limits.user_agent)

    def get(self, url: str) -> Response:
        """Fetch one page; its redirects are followed as long as they stay on the site. Raises `PageError`."""
        answer = self._fetch(url, self.limits.max_page_bytes, on_site=True)
        if len(answer.body) > self.limits.max_page_bytes:
            raise PageError(f"{url} is larger than {self.limits.max_page_bytes} bytes", NotThere)
        return answer

    def _robots(self, url: str) -> Protego:
        """Return the rules. None there (4xx, endless redirects): all is allowed. None to be had: nothing is."""
        try:
            answer = self._fetch(urljoin(url, "/robots.txt"), ROBOTS_BYTES, on_site=False)
        except PageError as error:
            if error.fate is not NotThere:
                raise
            return Protego.parse("")
        if answer.status >= 500:
            raise PageError(f"{answer.url} answered {answer.status}")
        return Protego.parse(answer.body.decode("utf-8-sig", "replace") if answer.status < 400 else "")

    def _fetch(self, url: str, most: int, *, on_site: bool) -> Response:
        """Fetch a URL, following redirects by hand so that each hop is checked. `most`: as in `_body`."""
        network = Network(time.monotonic() + self.limits.page_timeout.total_seconds(), self.limits.allow_private)
        for _ in range(self.limits.max_redirects + 1):
            try:
                self._check(url, on_site)
                answer = self._hop(url, most, network)
            except FAILURES as error:
                raise PageError(f"{url}: {type(error).__name__}: {error}") from error
            if isinstance(answer, Response):
                return answer
            url = answer
        raise PageError(f"{url}: more than {self.limits.max_redirects} redirects", NotThere)

    def _check(self, url: str, on_site: bool) -> None:
        """Raises `PageError` when a URL must not be fetched."""
        if httpx.URL(url).scheme not in ("http", "https") or not httpx.URL(url).raw_host:
            raise PageError(f"{url!r} is no http or https URL", Forbidden)
        if on_site and site_of(url) != self.key:
            raise CrossSiteRedirect(url)
        if on_site and not self.allows(url):
            raise PageError(f"robots.txt forbids {url}", Forbidden)

    def _hop(self, url: str, most: int, network: Network) -> Response | str:
        """Return the answer, or where it redirects to."""
        parsed = httpx.URL(url)
        host, port = parsed.raw_host, parsed.port
        target = httpcore.URL(scheme=parsed.raw_scheme, host=host, port=port, target=parsed.raw_path)
        headers: dict[bytes | str, bytes | str] = {"Host": parsed.netloc, "User-Agent": self.limits.user_agent}
        headers |= {"Accept": "text/html,*/*;q=0.5", "Accept-Encoding": "gzip"}
        # No kept connections, so that the next page's address is checked anew. httpcore reads no proxies from the
        # environment.
        pool = httpcore.ConnectionPool(self.tls, max_keepalive_connections=0, network_backend=network)
        with pool, pool.stream("GET", target, headers=headers) as response:
            got = httpx.Headers(response.headers)
            if response.status in (301, 302, 303, 307, 308) and "location" in got:
                return _joined(url, got["location"])
            body = _body(response.iter_stream(), got.get("content-encoding", "").strip().lower(), most)
        kind = got.get("content-type", "text/html").split(";")[0].strip().lower()
        return Response(url, response.status, kind, body)


def _body(chunks: Iterable[bytes], encoding: str, most: int) -> bytes:
    """Return the decompressed body, cut to one byte more than `most`. Raises ValueError for an unknown encoding."""
    if encoding not in ("", "identity", "gzip", "x-gzip"):
        raise ValueError(f"the encoding {encoding!r} was not asked for")
    unzip = zlib.decompressobj(16 + zlib.MAX_WBITS) if encoding.endswith("gzip") else None
    body = bytearray()
    for chunk in chunks:
        # Never more than asked for comes out of a chunk, however much was packed into it.
        body += unzip.decompress(chunk, most + 1 - len(body)) if unzip else chunk
        if len(body) > most or (unzip and unzip.eof):
            break
    return bytes(body[: most + 1])
