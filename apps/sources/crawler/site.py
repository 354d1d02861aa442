"""One host: its robots.txt, and its pages, fetched within the limits."""

import ssl
import time
from collections.abc import Iterable
from urllib.parse import urljoin

import httpcore
import httpx
from protego import Protego

from apps.sources.crawler import urls
from apps.sources.crawler.errors import CrossSiteRedirect, Forbidden, NotThere, PageError
from apps.sources.crawler.limits import Limits
from apps.sources.crawler.network import Network
from apps.sources.crawler.page import Response

# Seconds. A robots.txt may ask for any delay; waiting longer per page would only keep a worker busy.
MAX_CRAWL_DELAY = 10.0
# What RFC 9309 asks a crawler to read at least.
ROBOTS_BYTES = 512 * 1024
REDIRECTS = (301, 302, 303, 307, 308)
# Named one by one: a task's soft time limit is an Exception too and must get through.
NETWORK_ERRORS = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException)
FETCH_ERRORS = (*NETWORK_ERRORS, httpx.InvalidURL, OSError, ValueError)


class Site:
    """One host, given by a URL. Creating it loads its robots.txt. Raises `PageError`."""

    def __init__(self, url: str, limits: Limits, tls: ssl.SSLContext) -> None:
        self.key = urls.site_of(url)
        self.limits = limits
        self.tls = tls
        self.rules = self._load_robots(url)
        self.crawl_delay = min(float(self.rules.crawl_delay(limits.user_agent) or 0), MAX_CRAWL_DELAY)

    def allows(self, url: str) -> bool:
        """True for a URL of this site that robots.txt does not forbid."""
        is_on_site = url.startswith(("http:", "https:")) and urls.site_of(url) == self.key
        return is_on_site and self.rules.can_fetch(url, self.limits.user_agent)

    def get(self, url: str) -> Response:
        """Fetch one page; redirects are followed as long as they stay on the site. Raises `PageError`."""
        response = self._fetch(url, self.limits.max_page_bytes, on_site=True)
        if len(response.body) > self.limits.max_page_bytes:
            raise PageError(f"{url} is larger than {self.limits.max_page_bytes} bytes", NotThere)
        return response

    def _load_robots(self, url: str) -> Protego:
        """Return the rules. If there are none (4xx, endless redirects), all is allowed; a failure is a `PageError`."""
        try:
            response = self._fetch(urljoin(url, "/robots.txt"), ROBOTS_BYTES, on_site=False)
        except PageError as error:
            if error.as_crawl_error is not NotThere:
                raise
            return Protego.parse("")
        if response.status >= 500:
            raise PageError(f"{response.url} answered {response.status}")
        return Protego.parse(response.body.decode("utf-8-sig", "replace") if response.status < 400 else "")

    def _fetch(self, url: str, max_bytes: int, *, on_site: bool) -> Response:
        """Fetch a URL, following redirects here so that each hop is checked. The body may have one byte too many."""
        network = Network(time.monotonic() + self.limits.page_timeout.total_seconds(), self.limits.allow_private)
        for _ in range(self.limits.max_redirects + 1):
            try:
                self._check(url, on_site)
                response = self._request(url, max_bytes, network)
            except FETCH_ERRORS as error:
                raise PageError(f"{url}: {type(error).__name__}: {error}") from error
            if isinstance(response, Response):
                return response
            url = response
        raise PageError(f"{url}: more than {self.limits.max_redirects} redirects", NotThere)

    def _check(self, url: str, on_site: bool) -> None:
        """Raise `PageError` if a URL must not be fetched."""
        if httpx.URL(url).scheme not in ("http", "https") or not httpx.URL(url).raw_host:
            raise PageError(f"{url!r} is no http or https URL", Forbidden)
        if on_site and urls.site_of(url) != self.key:
            raise CrossSiteRedirect(url)
        if on_site and not self.allows(url):
            raise PageError(f"robots.txt forbids {url}", Forbidden)

    def _request(self, url: str, max_bytes: int, network: Network) -> Response | str:
        """Return the response, or the URL that it redirects to."""
        parsed = httpx.URL(url)
        target = httpcore.URL(scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path)
        headers: dict[bytes | str, bytes | str] = {
            "Host": parsed.netloc,
            "User-Agent": self.limits.user_agent,
            "Accept": "text/html,*/*;q=0.5",
            "Accept-Encoding": "identity",
        }
        # No kept connections, so that the next page's address is checked anew. httpcore reads no proxies from the
        # environment.
        pool = httpcore.ConnectionPool(self.tls, max_keepalive_connections=0, network_backend=network)
        with pool, pool.stream("GET", target, headers=headers) as response:
            received = httpx.Headers(response.headers)
            if response.status in REDIRECTS and "location" in received:
                return urls.join(url, received["location"])
            if received.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
                raise ValueError(f"the encoding {received['content-encoding']!r} was not asked for")
            body = _read_at_most(max_bytes + 1, response.iter_stream())
        content_type = received.get("content-type", "text/html").split(";")[0].strip().lower()
        return Response(url, response.status, content_type, body)


def _read_at_most(max_bytes: int, chunks: Iterable[bytes]) -> bytes:
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) >= max_bytes:
            break
    return bytes(body[:max_bytes])
