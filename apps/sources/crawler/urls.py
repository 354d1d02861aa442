"""URLs: normalized, joined, and compared by site. Pure."""

from urllib.parse import urljoin

import httpx


def normalize(url: str) -> str:
    """Return the URL as it is compared: without fragment and user. Raises ValueError or `httpx.InvalidURL`."""
    parsed = httpx.URL(url).copy_with(fragment=None, userinfo=b"")
    if (parsed.port or 0) > 65535:
        raise ValueError(f"there is no port {parsed.port}")
    # "http://host" and "http://host/" are one page.
    return str(parsed.copy_with(raw_path=parsed.raw_path) if parsed.raw_host else parsed)


def join(base: str, link: str) -> str:
    """Return a link as an absolute, normalized URL; '' for one that cannot be a URL."""
    try:
        return normalize(urljoin(base, link.strip()))
    except (ValueError, httpx.InvalidURL):
        return ""


def site_of(url: str) -> tuple[str, int | None]:
    """Return what makes two URLs the same site: host and port (None: the scheme's own)."""
    parsed = httpx.URL(url)
    # Not `host`, which raises for a malformed international name.
    return parsed.raw_host.decode(), parsed.port
