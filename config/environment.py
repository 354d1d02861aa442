"""The environment's variables, read strictly: a mistake stops the start with one sentence that tells the right form.

A value is shown as it was written, except where a password may be in it.
"""

import os
import re
from typing import Any
from urllib.parse import urlsplit

import environ
from kombu.transport import TRANSPORT_ALIASES

TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LOCAL = (None, "", "localhost", "127.0.0.1", "::1")
KEY_LENGTH = 32


class InvalidEnvironment(SystemExit):
    """A variable is missing or wrong. Unhandled, it ends the command with its one sentence, without a traceback."""

    def __init__(self, name: str, what: str, right: str) -> None:
        super().__init__(f"The environment variable {name} {what}: {right}.")


def text(name: str, default: str = "") -> str:
    """The variable without the blanks around it; one that is empty counts as not set."""
    return os.environ.get(name, "").strip() or default


def items(name: str, default: list[str]) -> list[str]:
    """The variable's comma-separated items."""
    return [item.strip() for item in text(name).split(",") if item.strip()] or default


def flag(name: str, default: bool) -> bool:
    """The variable as a truth value."""
    value = text(name).lower()
    if not value:
        return default
    if value not in TRUE + FALSE:
        raise InvalidEnvironment(name, f"is {value!r}", "write 1 or 0")
    return value in TRUE


def number(name: str, default: int, least: int = 1, most: int = 10**9) -> int:
    """The variable as a whole number within these limits."""
    value = text(name)
    if not value:
        return default
    if not re.fullmatch(r"-?[0-9]{1,10}", value) or not least <= int(value) <= most:
        raise InvalidEnvironment(name, f"is {value!r}", f"write a whole number from {least} to {most}")
    return int(value)


def choice(name: str, default: str, allowed: tuple[str, ...]) -> str:
    """The variable as one of these words."""
    value = text(name, default).upper()
    if value not in allowed:
        raise InvalidEnvironment(name, f"is {value!r}", f"write one of {', '.join(allowed)}")
    return value


def secret_key(name: str) -> str:
    """The variable as a key that nobody guesses. It is never shown."""
    value = text(name)
    if len(value) < KEY_LENGTH or value.startswith("django-insecure-"):
        what = "is not long enough to be secret" if value else "is not set"
        right = f"write {KEY_LENGTH} random characters or more, such as `openssl rand -base64 48` prints"
        raise InvalidEnvironment(name, what, right)
    return value


def hosts(name: str, default: list[str]) -> list[str]:
    """The variable as the names that the site answers to."""
    names = items(name, default)
    if not names:
        raise InvalidEnvironment(name, "is not set", "name the site's hosts, such as crawler.example.com")
    if wrong := [each for each in names if not re.fullmatch(r"\*|\.?[\w.-]+|\[[0-9a-fA-F:.]+\]", each)]:
        raise InvalidEnvironment(name, f"has {wrong[0]!r}", "write a host's name alone, without scheme, port or path")
    return names


def origins(name: str) -> list[str]:
    """The variable as origins, each with its scheme."""
    found = items(name, [])
    if wrong := [each for each in found if not re.fullmatch(r"https?://[^/\s]+", each)]:
        raise InvalidEnvironment(
            name, f"has {wrong[0]!r}", "write scheme and host, such as https://crawler.example.com"
        )
    return found


def database(name: str, url: str) -> dict[str, Any]:
    """The database's address as Django's settings want it."""
    right = "write postgres://USER:PASSWORD@HOST:5432/NAME, with the password percent-encoded"
    if not url.startswith("sqlite:"):  # whose path may be anything
        check_address(name, url, tuple(environ.Env.DB_SCHEMES), right)
    settings = environ.Env.db_url_config(url)
    if not settings["NAME"]:
        raise InvalidEnvironment(name, f"is {redact(url)!r}, without the database's name", right)
    return settings


def email(name: str, default: str) -> dict[str, Any]:
    """The mail server's address as Django's settings want it."""
    right = "write smtp+tls://USER:PASSWORD@HOST:587, with the password percent-encoded"
    url = text(name, default)
    check_address(name, url, tuple(environ.Env.EMAIL_SCHEMES), right)
    return environ.Env.email_url_config(url)


def broker(name: str, urls: str) -> str:
    """The broker's address, or several of them with a semicolon between."""
    right = "write redis://:PASSWORD@HOST:6379/0 or amqp://USER:PASSWORD@HOST:5672/VHOST, the password percent-encoded"
    for url in urls.split(";"):
        check_address(name, url.strip(), (*filter(None, TRANSPORT_ALIASES), "redis+socket"), right)
    return urls


def check_address(name: str, url: str, schemes: tuple[str, ...], right: str) -> None:
    """Raise InvalidEnvironment for an address that cannot be taken apart or is of none of these schemes."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises when it is no number
    except ValueError:
        parts = None
    if parts is None or "://" not in url or parts.scheme not in schemes:
        raise InvalidEnvironment(name, f"is {redact(url)!r}", right)


def redact(url: str) -> str:
    """The address without what may be a password: all between the scheme and the last @, and the options."""
    login, at, place = url.rpartition("@")
    scheme, separator, _ = login.partition("://")
    shown = (f"{scheme}://***@" if separator else "***@") if at else ""
    return shown + re.sub(r"[?#].*", "?***", place, flags=re.DOTALL)


def is_remote(url: str) -> bool:
    """Whether the address names another machine."""
    try:
        return urlsplit(url).hostname not in LOCAL
    except ValueError:
        return False


def debug() -> bool:
    """Whether this is a development machine: as DEBUG says, and on when nothing is set.

    A production machine that forgets DEBUG=0 must not serve its tracebacks to everybody, so an address on another
    machine asks for a word about it.
    """
    for name in ("DATABASE_URL", "CELERY_BROKER_URL"):
        if not text("DEBUG") and is_remote(text(name)):
            what = f"is not set although {name} names another machine"
            raise InvalidEnvironment("DEBUG", what, "write 0 for production, 1 for development")
    return flag("DEBUG", True)
