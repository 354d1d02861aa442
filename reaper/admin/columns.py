"""How the admin shows timestamps, JSON, preformatted text and reasons."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.utils import timezone
from django.utils.html import format_html

from reaper.core.reasons import find_reason


def datetime_column(name: str, label: str = "") -> Callable[[Any], str]:
    """Return an admin column that shows the timestamp `name` of a row with its seconds, which Django's own omits.

    `label` is the column's heading; by default it is the field's name with spaces.
    """

    @admin.display(description=label or name.replace("_", " "), ordering=name)
    def column(row: Any) -> str:
        return format_timestamp(getattr(row, name))

    column.__name__ = name
    return column


def format_timestamp(moment: datetime | None) -> str:
    """Return a timestamp in the current time zone, to the second; "-" for None."""
    return f"{timezone.localtime(moment):%Y-%m-%d %H:%M:%S}" if moment else "-"


def json_block(value: Any) -> str:
    """Return a value as indented JSON in a `<pre>`."""
    return preformatted(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True))


def preformatted(text: str) -> str:
    """Return text in a `<pre>`, escaped; "-" for none."""
    return format_html("<pre>{}</pre>", text or "-")


def describe_reason(reason: str) -> str:
    """Return "CODE: sentence" for a reason; a code that another version wrote is returned as it is."""
    known = find_reason(reason)
    return f"{reason}: {known.sentence}" if known else reason
