"""The crawler against a real server: what it visits, what it refuses, what it counts, and when it gives up."""

import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import httpcore
import pytest

from apps.sources import crawler
from apps.sources.crawler import (
    ConfigError,
    CrawlError,
    Forbidden,
    Limits,
    NotThere,
    Totals,
    Unreachable,
    network,
    traversal,
)

PUBLIC = "93.184.216.34"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append((self.path, self.headers["Host"]))
        answer = self.server.pages.get(self.path, (404, {}, b""))
        if callable(answer):
            try:
                answer(self)
            except OSError:
                pass  # the crawler hung up, as it should
            return
        status, headers, body = answer
        self.send_response(status)
        for name, value in {"Content-Type": "text/html", "Content-Length": len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass

    def site(self, **pages):
        """Serve these pages only; a page is its HTML, or status, headers and body, or a function."""
        self.asked.clear()
        self.pages = {}
        for path, page in pages.items():
            ready = (200, {}, page.encode()) if isinstance(page, str) else page
            self.pages["/" + path.removeprefix("start").replace("__", ".")] = ready
        return f"http://127.0.0.1:{self.server_port}/"

    def paths(self):
        return [path for path, _ in self.asked if path != "/robots.txt"]


@pytest.fixture(scope="module")
def running():
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked, server.pages, server.stopping = [], {}, threading.Event()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.stopping.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def server(running):
    running.stopping.clear()
    yield running
    running.stopping.set()


def run(url, **config):
    *_, last = crawler.crawl(url, Limits.from_config(config, allow_private=True))
    return last


def links(*to, text=""):
    return text + "".join(f'<a href="{each}">to</a> ' for each in to)


def to(location, status=302):
    return status, {"Location": location}, b""


def drips(first, piece):
    """A page that sends `first` and then a piece every 50 ms until it is hung up on."""

    def answer(handler):
        handler.wfile.write(first)
        while not handler.server.stopping.wait(0.05):
            handler.wfile.write(piece)

    return answer


def test_crawl_follows_only_links_to_same_host(server):
    url = server.site(start=links("/a", "http://other.example/", "//127.0.0.1:1/"), a="a")
    assert run(url) == Totals(pages=2, found=2, new=2)
    assert server.paths() == ["/", "/a"]


def test_redirect_to_other_host_is_error_and_not_followed(server):
    url = server.site(start=links("/off"), off=to(f"http://localhost:{server.server_port}/a"), a="a")
    assert run(url) == Totals(pages=2, found=1, new=1, errors=1)
    assert server.paths() == ["/", "/off"]


def test_start_page_redirect_decides_the_site(server):
    own, elsewhere = "127.0.0.1", f"localhost:{server.server_port}"
    pages = {"start": to(f"http://{elsewhere}/home"), "home": links("/b", f"http://{own}:{server.server_port}/c")}
    assert run(server.site(**pages, b="b", c="c")) == Totals(pages=2, found=2, new=2)
    assert [(path, host) for path, host in server.asked if path == "/b"] == [("/b", elsewhere)]
    assert "/c" not in server.paths()


def test_crawl_goes_breadth_first_up_to_max_depth(server):
    url = server.site(start=links("/a", "/b"), a=links("/c", text="a"), b="b", c=links("/d", text="c"), d="d")
    assert run(url, max_depth=2) == Totals(pages=4, found=4, new=4)
    assert server.paths() == ["/", "/a", "/b", "/c"]
    assert run(url, max_depth=0).pages == 1


def test_max_pages_counts_failed_pages_too(server):
    url = server.site(start=links("/gone", "/a", "/b"), a="a", b="b")
    assert run(url, max_pages=3) == Totals(pages=3, found=2, new=2, errors=1)
    assert server.paths() == ["/", "/gone", "/a"]


def test_page_is_fetched_once_for_any_spelling_of_its_url(server):
    url = server.site(start=links("/", "/#x", "", "/a", "/x/../a", "/a#y"), a=links("/", text="a"))
    assert run(url.rstrip("/")) == Totals(pages=2, found=2, new=2)


def test_totals_separate_new_from_duplicate_texts(server):
    url = server.site(start=links("/a", "/b", "/c"), a="same  text", b="<p>same text</p>", c="<script>1</script>")
    assert run(url) == Totals(pages=4, found=3, new=2, duplicates=1)


def test_robots_txt_rules_are_followed(server):
    robots = "User-agent: *\nDisallow: /no\nCrawl-delay: 0"
    url = server.site(start=links("/no", "/yes", "/turn"), no="no", yes="yes", turn=to("/no"), robots__txt=robots)
    assert run(url) == Totals(pages=3, found=2, new=2, errors=1)
    assert "/no" not in server.paths()
    with pytest.raises(Forbidden, match="robots"):
        run(f"{url}no")


@pytest.mark.parametrize("status", [500, 503])
def test_unavailable_robots_txt_decides_by_its_status(server, status):
    url = server.site(start="x", robots__txt=(status, {}, b""))
    with pytest.raises(Unreachable, match=str(status)):
        run(url)
    assert server.paths() == []


@pytest.mark.parametrize(
    ("asked", "config", "slept"), [("7", 0, 7), ("9999", 0, 10), ("1", 3, 3), ("-5", 0, 0), ("nan", 1, 1), ("x", 0, 0)]
)
def test_crawl_delay_is_the_longer_of_site_and_config(server, monkeypatch, asked, config, slept):
    naps = []
    monkeypatch.setattr(traversal, "time", SimpleNamespace(sleep=naps.append))
    run(server.site(start=links("/a"), a="a", robots__txt=f"User-agent: *\nCrawl-delay: {asked}"), delay=config)
    assert naps == [slept]


ADDRESSES = """127.0.0.1 127.9.9.9 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0
224.0.0.1 240.0.0.1 255.255.255.255 :: ::1 fe80::1 fe80::1%eth0 fc00::1 fd00::1 fec0::1 ff02::1 ::ffff:127.0.0.1
::ffff:10.0.0.1 ::127.0.0.1 2002:7f00:1:: 2002:a00:1:: 2001:0:4136:e378:8000:63bf:80ff:fffe 64:ff9b::7f00:1
64:ff9b::a00:1 64:ff9b:1::1 2001:db8::1 64:ff9b::808:808 ::ffff:8.8.8.8 2002:808:808::"""


@pytest.mark.parametrize("address", ADDRESSES.split())
def test_private_address_is_not_public(address):
    assert not network.is_public(address)


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700::1111"])
def test_public_address_is_public(address):
    assert network.is_public(address)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "0x7f.1", "127.1", "localhost", "[::1]", "[::ffff:7f00:1]",
             "example.com@127.0.0.1", "example.com:80@127.0.0.1", "example.com%5C@127.0.0.1", "0"]
)  # fmt: skip
def test_private_host_is_refused_for_any_spelling(host):
    with pytest.raises(Forbidden, match="not public"):
        list(crawler.crawl(f"http://{host}/", Limits()))


@pytest.mark.parametrize("url", ["ftp://example.com/", "file:///etc/passwd", "javascript:1", "gopher://example.com"])
def test_other_url_schemes_are_refused(server, url):
    with pytest.raises(Forbidden):
        run(url)
    with pytest.raises(Forbidden):
        run(server.site(start=to(url)))


@pytest.fixture
def names(monkeypatch, server):
    """Hosts with scripted answers, one per look (the last stays); the public address leads to the server."""
    real_look, real_connect = socket.getaddrinfo, socket.create_connection
    scripts, connected = {}, []

    def look(host, port, *args, **options):
        name = host.decode() if isinstance(host, bytes) else host
        if script := scripts.get(name):
            address = script.pop(0) if len(script) > 1 else script[0]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, int(port)))]
        return real_look(host, port, *args, **options)

    def connect(address, *args, **options):
        connected.append(address[0])
        return real_connect(("127.0.0.1", address[1]), *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look)
    monkeypatch.setattr(socket, "create_connection", connect)
    return SimpleNamespace(scripts=scripts, connected=connected)


def test_connection_goes_to_checked_address_under_the_name(server, names):
    names.scripts["site.example"] = [PUBLIC]
    host = f"site.example:{server.server_port}"
    server.site(start=links("/a"), a="a")
    *_, last = crawler.crawl(f"http://{host}/", Limits())
    assert last == Totals(pages=2, found=2, new=2)
    assert set(names.connected) == {PUBLIC}
    assert {each for _, each in server.asked} == {host}


def test_name_that_resolves_to_private_address_later_is_refused(server, names):
    names.scripts["site.example"] = [PUBLIC, PUBLIC, "127.0.0.1"]
    server.site(start=links("/a"), a="a")
    *_, last = crawler.crawl(f"http://site.example:{server.server_port}/", Limits())
    assert last == Totals(pages=2, found=1, new=1, errors=1)
    assert set(names.connected) == {PUBLIC}
    assert server.paths() == ["/"]


def test_redirect_to_private_address_is_refused(server, names):
    names.scripts["site.example"] = [PUBLIC]
    server.site(start=to(f"http://127.0.0.1:{server.server_port}/secret"), secret="x")
    with pytest.raises(Forbidden, match="not public"):
        list(crawler.crawl(f"http://site.example:{server.server_port}/", Limits()))
    assert set(names.connected) == {PUBLIC}
    assert server.paths() == ["/"]


def test_page_over_size_limit_is_error_and_not_read_on(server):
    endless = drips(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 60_000)
    url = server.site(start=links("/big", "/fits"), big=endless, fits="x" * 1000)
    assert run(url, max_page_bytes=1000) == Totals(pages=3, found=2, new=2, errors=1)


def test_compressed_page_that_was_not_asked_for_is_an_error(server):
    pages = {name: (200, {"Content-Encoding": name}, b"x") for name in ("gzip", "br", "identity")}
    url = server.site(start=links("/gzip", "/br", "/identity"), **pages)
    assert run(url) == Totals(pages=4, found=2, new=2, errors=2)


@pytest.mark.parametrize(
    "page", [drips(b"HTTP/1.1 200 OK\r\n\r\n", b"x"), drips(b"HTTP/1.1 200 OK\r\nX: ", b"x"), drips(b"", b"")],
    ids=["body", "header", "nothing"],
)  # fmt: skip
def test_page_over_time_limit_is_error(server, page):
    url = server.site(start=links("/slow"), slow=page)
    began = time.monotonic()
    assert run(url, page_timeout=0.5) == Totals(pages=2, found=1, new=1, errors=1)
    assert 0.4 < time.monotonic() - began < 2
    with pytest.raises(Unreachable):
        run(f"{url}slow", page_timeout=0.5)


def test_redirects_over_limit_are_errors(server):
    url = server.site(start=links("/loop", "/1"), loop=to("/loop"), **{"1": to("/2"), "2": to("/3"), "3": "end"})
    assert run(url, max_redirects=2) == Totals(pages=3, found=2, new=2, errors=1)
    assert run(url, max_redirects=1) == Totals(pages=3, found=1, new=1, errors=2)


def test_page_without_html_is_counted_and_not_parsed(server):
    url = server.site(start=links("/pdf"), pdf=(200, {"Content-Type": "application/pdf"}, links("/a").encode()))
    assert run(url) == Totals(pages=2, found=1, new=1)
    assert server.paths() == ["/", "/pdf"]


@pytest.mark.parametrize(
    "link", ["http://[::1", "http://:x/", "mailto:a@b", "javascript:1", "ftp://127.0.0.1/", "http://xn--/", "http://\0/",
             "http://a:99999/", "//", "http://", "x" * 70_000]
)  # fmt: skip
def test_malformed_links_are_skipped(server, link):
    assert run(server.site(start=links(link, "/a"), a="a"), max_redirects=0).found == 2


def test_broken_pages_do_not_end_the_crawl(server):
    pages = {"bytes": (200, {}, b"\xff\xfe\0<a href='\xe9'>x\xff"), "broken": (500, {}, b"x"), "lie": to("http://[::1")}
    url = server.site(start=links("/bytes", "/broken", "/gone", "/lie", "/a"), a="a", **pages)
    assert run(url) == Totals(pages=7, found=3, new=3, errors=4)


@pytest.mark.parametrize(
    ("status", "error"), [(404, NotThere), (403, NotThere), (410, NotThere), (500, Unreachable), (503, Unreachable)]
)
def test_unusable_start_page_raises_its_crawl_error(server, status, error):
    with pytest.raises(error, match=str(status)):
        run(server.site(start=(status, {}, b"")))


def test_refused_connection_is_unreachable():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable):
            run(f"http://127.0.0.1:{closed.getsockname()[1]}/")


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://a:x/", "http://\0/", "http://xn--/", "", "no url", "http:///p", "http://0177.0.0.1/"]
)
def test_invalid_url_is_crawl_error(url):
    with pytest.raises(CrawlError):
        run(url)


BAD = [
    ("max_page", 1), ("allow_private", True), ("max_pages", "5"), ("max_pages", True), ("max_pages", 1.5),
    ("max_pages", 0), ("max_pages", -1), ("max_pages", 10**12), ("max_pages", 10**400), ("max_pages", None),
    ("max_depth", -1), ("page_timeout", float("nan")), ("page_timeout", float("inf")), ("page_timeout", 0),
    ("page_timeout", "1"), ("delay", -1), ("delay", 1e9), ("max_page_bytes", 0), ("max_redirects", -1),
    ("user_agent", ""), ("user_agent", 5), ("user_agent", "a\nb"), ("user_agent", " x"), ("user_agent", "ü"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), BAD, ids=[f"{key}-{n}" for n, (key, _) in enumerate(BAD)])
def test_invalid_config_names_the_setting(key, value):
    with pytest.raises(ConfigError) as caught:
        Limits.from_config({key: value})
    assert repr(key) in str(caught.value)
    assert repr(value) in str(caught.value)


def test_proxies_from_environment_are_not_used(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert run(server.site(start="x")).found == 1


def test_crawl_stopped_early_leaves_no_connection(server, monkeypatch):
    pools, make = [], httpcore.ConnectionPool
    monkeypatch.setattr(httpcore, "ConnectionPool", lambda *a, **k: pools.append(make(*a, **k)) or pools[-1])
    steps = crawler.crawl(server.site(start=links("/a"), a="a"), Limits(allow_private=True))
    assert next(steps).pages == 1
    steps.close()
    assert pools
    assert [pool.connections for pool in pools] == [[]] * len(pools)


def test_tls_is_checked_for_the_host_name(names):
    names.scripts["site.example"] = [PUBLIC]
    asked = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _, name, __: asked.append(name)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            conn, _ = listening.accept()
            with conn, pytest.raises(ssl.SSLError):
                context.wrap_socket(conn, server_side=True)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unreachable):
            list(crawler.crawl(f"https://site.example:{listening.getsockname()[1]}/", Limits()))
        thread.join()
    assert asked == ["site.example"]
