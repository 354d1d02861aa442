"""What is read from a page: its title, a hash of its text, and its links. Pure."""

import hashlib
import re
from dataclasses import dataclass
from itertools import islice

from selectolax.lexbor import LexborHTMLParser

from apps.sources.crawler import urls
from apps.sources.crawler.errors import NotThere, PageError, Unreachable

# Deep nesting costs the parser quadratic time in C, where no deadline reaches it: 40,000 tags took 3.5 s, 200,000 did
# not end in 100 s.
MAX_TAGS = 30_000


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response that is not a redirect."""

    url: str
    status: int
    content_type: str
    """In lower case and without parameters, such as "text/html"."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """One page as it was read."""

    url: str
    depth: int
    """Links away from the start page."""
    status: int
    title: str
    text_hash: str
    """SHA-256 of the visible text with its white space folded; '' for a page without text."""
    links: list[str]
    """Absolute URLs, not yet checked."""


def read_page(response: Response, depth: int) -> Page:
    """Return the page of a response. Raises `PageError` for an unusable one."""
    if response.status >= 400:
        # 408 and 429 are about now, not about the page.
        is_permanent = response.status < 500 and response.status not in (408, 429)
        raise PageError(f"{response.url} answered {response.status}", NotThere if is_permanent else Unreachable)
    if response.content_type not in ("text/html", "application/xhtml+xml"):
        return Page(response.url, depth, response.status, title="", text_hash="", links=[])
    html = _decode(response.body)
    if sum(1 for _ in islice(re.finditer("<[A-Za-z]", html), MAX_TAGS + 1)) > MAX_TAGS:
        raise PageError(f"{response.url} has more than {MAX_TAGS} tags", NotThere)
    tree = LexborHTMLParser(html)
    links = _links(tree, response.url)
    title = tree.css_first("title")
    return Page(
        response.url,
        depth,
        response.status,
        title=" ".join(title.text().split()) if title else "",
        text_hash=_text_hash(tree),
        links=links,
    )


def _links(tree: LexborHTMLParser, url: str) -> list[str]:
    base = tree.css_first("base[href]")
    base_url = (urls.join(url, base.attributes.get("href") or "") if base else "") or url
    hrefs = [node.attributes.get("href") or "" for node in tree.css("a[href]")]
    return [link for href in hrefs if (link := urls.join(base_url, href))]


def _text_hash(tree: LexborHTMLParser) -> str:
    """The hash of the visible text; the tree loses what is invisible."""
    tree.strip_tags(["script", "style", "template", "noscript"])
    text = " ".join((tree.body.text(separator=" ") if tree.body else "").split())
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() if text else ""


def _decode(body: bytes) -> str:
    """The text. What is not UTF-8 keeps its bytes apart, which is enough to distinguish texts."""
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        return body.decode("latin-1")
