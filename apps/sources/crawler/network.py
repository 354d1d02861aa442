"""Connections to public addresses only.

A site must not be a way into the network that the workers live in: all addresses of a host are checked before each
connection, which then goes to a checked address and not to a second resolution of the name.
"""

import ipaddress
import socket
import ssl
import time
from typing import Any

import httpcore

from apps.sources.crawler.errors import Forbidden, PageError

# Everything else of IPv6 is local, reserved, or wraps an IPv4 address.
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")


class Network(httpcore.SyncBackend):
    """Connects to checked addresses only, and ends every wait at one deadline (s, of `time.monotonic`).

    Resolving a name has the system's own time limit.
    """

    def __init__(self, deadline: float, allow_private: bool) -> None:
        self.deadline = deadline
        self.allow_private = allow_private

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
    """A connection whose every wait ends at its network's deadline: httpcore's own time-outs restart with each read."""

    def __init__(self, stream: httpcore.NetworkStream, network: Network) -> None:
        self.stream = stream
        self.network = network
        self.close = stream.close
        self.get_extra_info = stream.get_extra_info

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
    """True for an address of the public internet; False also for an IPv6 address that wraps another one."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and (ip not in GLOBAL_UNICAST or ip.sixtofour):
        return False
    return ip.is_global and not ip.is_multicast
