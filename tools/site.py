"""A real web site for the crawl workers, served by this process: several small sites below one address."""

import html
import threading
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit

# How often a page that never ends sends a byte. Shorter than any read timeout: the connection looks healthy.
DRIP_SECONDS = 0.5


class Site(NamedTuple):
    """One site: its name, how many pages it has, how long each takes, and the page that never ends."""

    name: str
    pages: int = 5
    seconds_per_page: float = 0.05
    endless_page: int | None = None
    # The source's crawler configuration.
    config: Mapping[str, float] = {}

    @property
    def path(self) -> str:
        """Return where the site begins."""
        return f"/{self.name}/"

    def page(self, number: int) -> str:
        """Return one page, with an article and links to all pages."""
        title = html.escape(f"{self.name}, page {number}")
        links = "".join(f'<li><a href="{self.path}{n}">page {n}</a></li>' for n in range(1, self.pages + 1))
        article = f"<article><h1>{title}</h1><p>{'All is well here. ' * 20}</p></article>"
        return f"<!doctype html><html><head><title>{title}</title></head><body>{article}<ul>{links}</ul></body></html>"


class Server:
    """Serves the sites on a free loopback port, in threads of this process, until it is closed."""

    def __init__(self, sites: Iterable[Site]) -> None:
        self.sites: Mapping[str, Site] = {site.name: site for site in sites}
        self.closing = threading.Event()
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def url(self, name: str) -> str:
        """Return the address of a site's first page."""
        return f"http://127.0.0.1:{self._http.server_port}{self.sites[name].path}"

    def close(self) -> None:
        """Stop serving; pages that are under way end."""
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    owner: Server

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore broken connections: crawlers are killed on purpose."""


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer a page of one of the sites."""
        owner = self.server.owner
        name, _, number = urlsplit(self.path).path.strip("/").partition("/")
        site = owner.sites.get(name)
        page = int(number) if number.isdigit() else 0
        if site is None or page > site.pages or (number and not page):
            self.send_error(404)
            return
        owner.closing.wait(site.seconds_per_page)
        if page and page == site.endless_page:
            self._drip(owner)
        else:
            self._send(site.page(page).encode())

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _drip(self, owner: Server) -> None:
        """Send a page that never ends, a byte at a time."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        while not owner.closing.wait(DRIP_SECONDS):
            self.wfile.write(b" ")
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # the base class's name for it
        """Log nothing: requests would drown the demo's own output."""
