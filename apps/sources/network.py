"""The way to a site: connections to checked addresses only, and the errors that a page or a crawl can end with.

A site must not be a way into the network that the workers live in: every address of a host is checked before each
connection, which then goes to a checked address and not to a second resolution of the name.
"""

import ipaddress
import socket
import ssl
import time
from typing import Any

import httpcore

NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Everything else of IPv6 is local, reserved or a disguise.
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")


class CrawlError(Exception):
    """The crawl as a whole cannot go on; the message is a sentence for a person."""


class ConfigError(CrawlError):
    """A source's URL or configuration cannot be used."""


class Forbidden(CrawlError):
    """The start page must not be fetched: its scheme, its address, or robots.txt says so."""


class NotThere(CrawlError):
    """The site has no such start page, or none that can be used (4xx, too large); trying again is no use."""


class Unreachable(CrawlError):
    """The start page could not be had this time: no connection, time-out, 5xx. It may work later."""


class PageError(Exception):
    """One page could not be had. `fate`: what that means for the crawl if it is the start page."""

    def __init__(self, message: str, fate: type[CrawlError] = Unreachable) -> None:
        super().__init__(message)
        self.fate = fate


class CrossSiteRedirect(PageError):
    """A page redirects to another site, at `url`."""

    def __init__(self, url: str) -> None:
        super().__init__(f"{url} is on another site", NotThere)
        self.url = url


class Network(httpcore.SyncBackend):
    """Connects to checked addresses only, and ends every wait at one deadline, of `time.monotonic`.

    Resolving a name is the system's and has the system's time limit.
    """

    def __init__(self, deadline: float, allow_private: bool) -> None:
        self.deadline, self.allow_private = deadline, allow_private

    def left(self) -> float:
        """Return the seconds left. Raises `PageError` when there are none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise PageError("the page took longer than its time limit")
        return left

    def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> Any:
        """Connect to the first address of the host that answers. Raises `PageError` when any is private."""
        failed: Exception = OSError(f"{host} has no address")
        for address in resolve_checked(host, port, allow_private=self.allow_private):
            try:
                options["timeout"] = self.left()
                return Stream(super().connect_tcp(address, port, *args, **options), self)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed


class Stream:
    """A connection whose every wait ends at its network's deadline: httpcore's own time-outs begin anew per read."""

    def __init__(self, stream: httpcore.NetworkStream, network: Network) -> None:
        self.stream, self.network = stream, network
        self.close, self.get_extra_info = stream.close, stream.get_extra_info

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what has come, at most `max_bytes`."""
        return self.stream.read(max_bytes, self.network.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all of the buffer."""
        self.stream.write(buffer, self.network.left())

    def start_tls(self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, **_: Any) -> "Stream":
        """Return the connection with TLS, checked for the name and not for the address."""
        return Stream(self.stream.start_tls(ssl_context, server_hostname, self.network.left()), self.network)


def resolve_checked(host: str, port: int, *, allow_private: bool) -> list[str]:
    """Return the addresses of a host. Raises `PageError` when any of them is private, OSError when there is none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(each[4][0]) for each in found]
    for address in addresses:
        if not allow_private and not is_public(address):
            raise PageError(f"{host} has the address {address}, which is not public", Forbidden)
    return addresses


def is_public(address: str) -> bool:
    """True for an address of the public internet, also when it is wrapped into an IPv6 one."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped or ip.sixtofour
        if ip in NAT64:
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(str(wrapped))
        if ip not in GLOBAL_UNICAST:
            return False
    return ip.is_global and not ip.is_multicast
