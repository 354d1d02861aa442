"""Crawls one site: same-host links, breadth first, within limits. Fetches pages only; it knows no database.

A site must not be a way into the network that the workers live in: only http and https, and every address of a host is
checked before each connection, which then goes to a checked address and not to a second resolution of the name.
"""

import hashlib
import ipaddress
import math
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple
from urllib.parse import urljoin

import httpx
from protego import Protego
from selectolax.lexbor import LexborHTMLParser

# A robots.txt may ask for any delay; waiting for longer than this per page would only hold a worker.
MAX_CRAWL_DELAY = 10.0
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class CrawlError(Exception):
    """The crawl as a whole cannot go on; the message is a sentence for a person."""


class ConfigError(CrawlError):
    """A source's configuration cannot be used."""


class Forbidden(CrawlError):
    """The start page must not be fetched: its scheme, its address, or robots.txt says so."""


class NotThere(CrawlError):
    """The site answered that it has no such start page, or that it is not for us (4xx)."""


class Unreachable(CrawlError):
    """The start page could not be had this time: no connection, time-out, 5xx. It may work later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How far a crawl may go. A source's `crawler_config` sets any of them but `allow_private`."""

    max_pages: int = 100
    max_depth: int = 3
    # Seconds for a whole page, its redirects included: also for a server that sends one byte a second.
    page_timeout: float = 10.0
    # A page of text is smaller; what is larger is not read to its end.
    max_page_bytes: int = 2 * 1024 * 1024
    max_redirects: int = 5
    # Seconds between two pages.
    delay: float = 0.0
    allow_private: bool = False
    user_agent: str = "django-celery-reaper-crawler"

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, allow_private: bool = False) -> "Limits":
        """Return the limits with a source's values. Raises `ConfigError` naming key and value."""
        defaults = cls(allow_private=allow_private)
        known = {field.name for field in fields(cls)} - {"allow_private"}
        values = {}
        for key, value in config.items():
            if key not in known:
                raise ConfigError(f"crawler_config has no setting {key!r}; it may have {', '.join(sorted(known))}.")
            values[key] = _like(key, value, getattr(defaults, key))
        return replace(defaults, **values)


def _like(key: str, value: Any, default: Any) -> Any:
    """Return the value when it is of the default's sort and not absurd. Raises `ConfigError`."""
    if isinstance(default, str):
        if isinstance(value, str) and value.isprintable() and value.isascii() and value:
            return value
        raise ConfigError(f"crawler_config[{key!r}] is {value!r}; it must be a printable text.")
    least = 0 if key in ("max_depth", "max_redirects", "delay") else 1 if isinstance(default, int) else 0.1
    number = isinstance(value, int) if isinstance(default, int) else isinstance(value, int | float)
    if isinstance(value, bool) or not number or not math.isfinite(value) or not least <= value <= 1e9:
        kind = "a whole number" if isinstance(default, int) else "a number of seconds"
        raise ConfigError(f"crawler_config[{key!r}] is {value!r}; it must be {kind}, {least} or more.")
    return value


@dataclass(frozen=True, slots=True)
class Totals:
    """What a crawl has counted so far: pages tried, pages with text (new or seen before in this crawl), errors."""

    pages: int = 0
    found: int = 0
    new: int = 0
    duplicates: int = 0
    errors: int = 0


class Page(NamedTuple):
    """One fetched page, after its redirects."""

    url: str
    status: int
    html: bool
    body: bytes


class PageError(Exception):
    """One page could not be had. `lasting`: it is no use to try again."""

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


def crawl(url: str, limits: Limits) -> Iterator[Totals]:
    """Crawl the site of a URL; yield the totals after every page that was tried. Raises `CrawlError` only.

    A page that fails is counted and ends nothing; the caller may stop at any time.
    """
    # No kept connections: the next page's address is checked and connected anew. No proxies from the environment.
    pool = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(trust_env=False, limits=pool, headers=_headers(limits)) as client:
        fetcher = Fetcher(client, limits)
        page, robots = fetcher.start(url)
        delay = max(limits.delay, min(float(robots.crawl_delay(limits.user_agent) or 0), MAX_CRAWL_DELAY))
        site = site_of(page.url)
        seen_urls, seen_texts = {_clean(url), page.url}, set[str]()
        queue: deque[tuple[str, int]] = deque([(page.url, 0)])
        totals = Totals()
        while queue and totals.pages < limits.max_pages:
            at, depth = queue.popleft()
            try:
                if totals.pages:
                    time.sleep(delay)
                    page = fetcher.get(at, site=site)
                text, links = read(page)
                totals = count(totals, text, seen_texts)
                for link in links if depth < limits.max_depth else ():
                    if link not in seen_urls and site_of(link) == site and robots.can_fetch(link, limits.user_agent):
                        seen_urls.add(link)
                        queue.append((link, depth + 1))
            except (PageError, Forbidden):
                totals = replace(totals, pages=totals.pages + 1, errors=totals.errors + 1)
            yield totals


def count(totals: Totals, text: str, seen: set[str]) -> Totals:
    """Return the totals with one more page of this text. `seen`: hashes of the texts before, which it adds to."""
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    new, again = (bool(text) and digest not in seen), (bool(text) and digest in seen)
    seen.add(digest)
    return replace(
        totals,
        pages=totals.pages + 1,
        found=totals.found + (new or again),
        new=totals.new + new,
        duplicates=totals.duplicates + again,
    )


def read(page: Page) -> tuple[str, list[str]]:
    """Return a page's visible text, white space folded, and its absolute links. Raises `PageError` for an error."""
    if page.status >= 400:
        raise PageError(f"{page.url} answered {page.status}", lasting=page.status < 500)
    if not page.html:
        return "", []
    tree = LexborHTMLParser(page.body)
    links = [node.attributes.get("href") or "" for node in tree.css("a[href]")]
    tree.strip_tags(["script", "style", "template", "noscript"])
    text = " ".join((tree.body.text(separator=" ") if tree.body else "").split())
    return text, [link for link in (_join(page.url, link) for link in links) if link]


def _join(base: str, link: str) -> str:
    """Return a link as an absolute URL without its fragment; '' for one that is none."""
    try:
        return _clean(urljoin(base, link.strip()))
    except (ValueError, httpx.InvalidURL):
        return ""


def _clean(url: str) -> str:
    return str(httpx.URL(url).copy_with(fragment=None))


def site_of(url: str) -> tuple[str, int | None]:
    """Return what makes two URLs the same site: host and port (None: the scheme's own)."""
    parsed = httpx.URL(url)
    return parsed.host, parsed.port


def _headers(limits: Limits) -> dict[str, str]:
    # Uncompressed: the size limit then bounds what is held in memory, whatever a server compressed.
    return {"User-Agent": limits.user_agent, "Accept": "text/html,*/*;q=0.5", "Accept-Encoding": "identity"}


class Fetcher:
    """Fetches pages within the limits, following redirects by hand so that each hop is checked."""

    def __init__(self, client: httpx.Client, limits: Limits) -> None:
        self.client, self.limits = client, limits

    def start(self, url: str) -> tuple[Page, Protego]:
        """Return the start page and its site's robots.txt. Raises `CrawlError`."""
        try:
            robots = self.robots(url)
            if not robots.can_fetch(url, self.limits.user_agent):
                raise Forbidden(f"robots.txt forbids {url}.")
            page = self.get(url)
            # A start page that redirects to another host makes that one the site, whose own robots.txt then counts.
            if site_of(page.url) != site_of(url):
                robots = self.robots(page.url)
                if not robots.can_fetch(page.url, self.limits.user_agent):
                    raise Forbidden(f"robots.txt forbids {page.url}.")
            read(page)
        except (ValueError, httpx.InvalidURL) as error:
            raise ConfigError(f"{url!r} is no URL: {error}.") from error
        except PageError as error:
            raise (NotThere if error.lasting else Unreachable)(f"{error}.") from error
        return page, robots

    def robots(self, url: str) -> Protego:
        """Return the rules of a URL's site. None there (4xx): everything is allowed. Raises `PageError` for 5xx."""
        page = self.get(urljoin(url, "/robots.txt"))
        if page.status >= 500:
            raise PageError(f"{page.url} answered {page.status}")
        return Protego.parse(page.body.decode("utf-8", "replace") if page.status < 400 else "")

    def get(self, url: str, *, site: tuple[str, int | None] | None = None) -> Page:
        """Fetch one page; with `site` only as long as its redirects stay there. Raises `PageError` and `Forbidden`."""
        deadline = time.monotonic() + self.limits.page_timeout
        for _ in range(self.limits.max_redirects + 1):
            try:
                if site and site_of(url) != site:
                    raise PageError(f"{url} is not on the site")
                answer = self._hop(url, deadline)
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                raise PageError(f"{url}: {type(error).__name__}: {error}") from error
            if isinstance(answer, Page):
                return answer
            url = answer
        raise PageError(f"{url}: more than {self.limits.max_redirects} redirects", lasting=True)

    def _hop(self, url: str, deadline: float) -> Page | str:
        """Return the page, or where it redirects to."""
        parsed = httpx.URL(url)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise Forbidden(f"{url} is neither http nor https.")
        address = vetted(parsed.host, parsed.port or (443 if parsed.scheme == "https" else 80), self.limits)
        request = self.client.build_request("GET", parsed.copy_with(userinfo=b""), timeout=_left(deadline))
        # Connect to the address that was checked; the name stays in the Host header and in TLS.
        request.extensions["sni_hostname"] = parsed.host
        request.url = request.url.copy_with(host=address)
        response = self.client.send(request, stream=True)
        try:
            if response.has_redirect_location:
                return _join(url, response.headers["location"])
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise PageError(f"{url} is compressed though that was not asked for", lasting=True)
            body = self._body(url, response, deadline)
        finally:
            response.close()
        kind = response.headers.get("content-type", "text/html").split(";")[0].strip().lower()
        return Page(_clean(url), response.status_code, kind in ("text/html", "application/xhtml+xml"), body)

    def _body(self, url: str, response: httpx.Response, deadline: float) -> bytes:
        body = bytearray()
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > self.limits.max_page_bytes:
                raise PageError(f"{url} is larger than {self.limits.max_page_bytes} bytes", lasting=True)
            _left(deadline)
        return bytes(body)


def _left(deadline: float) -> float:
    """Return the seconds left. Raises `PageError` when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise PageError("the page took longer than its time limit")
    return left


def vetted(host: str, port: int, limits: Limits) -> str:
    """Return an address of the host to connect to. Raises `Forbidden` when any is private, `PageError` for none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise PageError(f"{host} has no address: {error}") from error
    addresses = [str(each[4][0]) for each in found]
    for address in addresses:
        if not limits.allow_private and not is_public(address):
            raise Forbidden(f"{host} has the address {address}, which is not public.")
    return addresses[0]


def is_public(address: str) -> bool:
    """True for an address of the public internet, also when it is wrapped into an IPv6 one."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if ip in NAT64:
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(str(wrapped))
    return ip.is_global and not ip.is_multicast
