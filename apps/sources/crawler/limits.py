"""How far a crawl may go, and what a source may ask for."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Any

from apps.sources.crawler.errors import ConfigError

# The least and the most that a source may ask for; timedeltas in seconds.
BOUNDS = {
    "max_pages": (1, 100_000),
    "max_depth": (0, 100),
    "page_timeout": (0.1, 3600),
    "max_page_bytes": (1, 100 * 1024 * 1024),
    "max_redirects": (0, 20),
    "delay": (0, 60),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How far a crawl may go. A source's `crawler_config` sets any of them but `allow_private`."""

    max_pages: int = 100
    """Pages tried, failed ones included: a few minutes at a second each, well within a task's time limit."""
    max_depth: int = 3
    """Links away from the start page, which is 0."""
    page_timeout: timedelta = timedelta(seconds=10)
    """For a whole page including redirects, so that it also ends a server that sends one byte a second."""
    max_page_bytes: int = 2 * 1024 * 1024
    """Pages of text are smaller; larger ones are errors, and are not read to their end."""
    max_redirects: int = 5
    """Hops from one URL, and hosts that a start page may pass through."""
    delay: timedelta = timedelta(0)
    """Between two pages; robots.txt may ask for more."""
    allow_private: bool = False
    """Whether the site may have a private address: for the operator's own sites. A source cannot ask for it."""
    user_agent: str = "django-celery-reaper-crawler"
    """Sent to the site, and looked for in its robots.txt."""

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
