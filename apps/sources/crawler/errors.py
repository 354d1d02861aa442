"""The errors that a crawl or a page can end with.

CrawlError       the crawl as a whole cannot go on
├── ConfigError  a source's URL or configuration cannot be used
├── Forbidden    the start page must not be fetched
├── NotThere     there is no usable start page
└── Unreachable  the start page could not be fetched this time
PageError                one page could not be fetched or used; counted, and fatal only for the start page
└── CrossSiteRedirect    a page redirects to another site
"""


class CrawlError(Exception):
    """The crawl as a whole cannot go on; the message is a sentence for people."""


class ConfigError(CrawlError):
    """A source's URL or configuration cannot be used."""


class Forbidden(CrawlError):
    """The start page must not be fetched, because of its scheme, its address, or robots.txt."""


class NotThere(CrawlError):
    """The site has no such start page, or an unusable one (4xx, too large). Trying again is pointless."""


class Unreachable(CrawlError):
    """The start page could not be fetched this time: no connection, time-out, 5xx. It may work later."""


class PageError(Exception):
    """One page could not be fetched or used."""

    def __init__(self, message: str, as_crawl_error: type[CrawlError] = Unreachable) -> None:
        """`as_crawl_error` is what to raise if the page is the start page."""
        super().__init__(message)
        self.as_crawl_error = as_crawl_error


class CrossSiteRedirect(PageError):
    """A page redirects to another site."""

    def __init__(self, url: str) -> None:
        """`url` is where it redirects to."""
        super().__init__(f"{url} is on another site", NotThere)
        self.url = url
