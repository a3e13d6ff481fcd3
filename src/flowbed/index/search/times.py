"""The time of a row, from its metadata: in SQL to filter by, in Python to sort by, and moments as people write them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Mapping

# The keys that may have it; the first with a time counts. Chats have the times of their first and last messages,
# trackers that of an issue or note, receipts their date.
KEYS = ("last_ts", "created_at", "date", "ts", "timestamp", "updated_at")
# A row that covers a time from first to last lies before a moment if its first part does.
STARTS = ("first_ts", *KEYS)
# Numbers from this on, which as seconds are the year 5138, are milliseconds.
MILLISECONDS = 1e11
STORED = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:?\d\d)?)?")
AGE = re.compile(r"(\d{1,6})\s*([mhdw])")
UNITS = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def within(since: float | None, before: float | None) -> str:
    """Write the condition that a row's time is not below `since` and below `before`, in seconds since 1970.

    A row without a time fulfils none. With neither, it is `true`.
    """
    parts = []
    if since is not None:
        parts.append(f"coalesce({_seconds(KEYS)} >= {since!r}, false)")
    if before is not None:
        parts.append(f"coalesce({_seconds(STARTS)} < {before!r}, false)")
    return " AND ".join(parts) or "true"


def _seconds(keys: tuple[str, ...]) -> str:
    found = []
    for key in keys:
        text = f"json_get_string(metadata, '{key}')"
        number = f"try_cast({text} AS DOUBLE)"
        found.append(f"CASE WHEN {number} >= {MILLISECONDS} THEN {number} / 1000.0 ELSE {number} END")
        # A time is nanoseconds as an integer; one without a zone is UTC.
        found.append(f"try_cast(try_cast({text} AS TIMESTAMP) AS BIGINT) / 1000000000.0")
    return f"coalesce({', '.join(found)})"


def time_of(metadata: Mapping[str, Any]) -> float | None:
    """Return the time of a row in seconds since 1970; None if it has none."""
    times = (_time(metadata.get(key)) for key in KEYS)
    return next((time for time in times if time is not None), None)


def _time(value: Any) -> float | None:
    if isinstance(value, str):
        if STORED.fullmatch(value):
            return _seconds_of(value)
        try:
            value = float(value)
        except ValueError:
            return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return value / 1000 if value >= MILLISECONDS else float(value)


def moment(value: str | float | datetime | None, name: str, *, now: float) -> float | None:
    """Return a moment in seconds since 1970, given as such, as a date or time (UTC without a zone), or as an age.

    Raises:
        Rejected: it is none of these.
    """
    if value is None:
        return None
    if isinstance(value, datetime):
        return (value if value.tzinfo is not None else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, str):
        age = AGE.fullmatch(value.strip())
        if age is not None:
            return now - int(age[1]) * UNITS[age[2]]
        seconds = _written(value.strip())
    else:
        seconds = float(value)
    if seconds is None or not math.isfinite(seconds):
        raise Rejected(
            f"{name} is {value!r}: give a date such as 2026-03-14, a time such as 2026-03-14T09:30:00Z, seconds since"
            " 1970, or an age such as 12h, 7d or 2w"
        )
    return seconds


def _written(text: str) -> float | None:
    try:
        return float(text) if text.isascii() and text.replace(".", "", 1).isdigit() else _seconds_of(text)
    except (ValueError, OverflowError):
        return None


def _seconds_of(text: str) -> float | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:  # a day that no month has
        return None
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
