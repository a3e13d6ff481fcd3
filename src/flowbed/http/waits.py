"""How long a server asks to wait, from the headers and messages that servers use. No I/O."""

from __future__ import annotations

import math
import re
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# The longest wait (seconds) that is believed: monthly quotas pass within it. A server that asks for more has mixed up
# its units, or says when instead of how long.
LONGEST_WAIT = 31 * 86_400.0


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Read how many seconds to wait, given in milliseconds, in seconds or as a date; None if the headers do not say.

    A wait that cannot be meant is not one.
    """
    return believed(_advised(headers))


def believed(seconds: float | None) -> float | None:
    """Return a wait that a server asks for, 0 or more seconds; None if it cannot be meant."""
    return seconds if seconds is not None and 0 <= seconds <= LONGEST_WAIT else None


def _advised(headers: Mapping[str, str]) -> float | None:
    if (milliseconds := _non_negative(headers.get("retry-after-ms", ""))) is not None:
        return milliseconds / 1000
    advice = headers.get("retry-after", "")
    if (seconds := _non_negative(advice)) is not None:
        return seconds
    try:
        # Measured on the server's clock, which may be hours off from ours.
        wait = parsedate_to_datetime(advice) - parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, wait.total_seconds())
    except (TypeError, ValueError, IndexError, OverflowError):
        pass
    return _reset(headers)


def _reset(headers: Mapping[str, str]) -> float | None:
    """Read when an exhausted rate limit resets, from OpenAI's headers or the RateLimit header."""
    waits = [
        parse_duration(headers.get(f"x-ratelimit-reset-{what}", ""))
        for what in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{what}") == "0"
    ]
    found = re.search(r"\br=0\b.*?\bt=(\d+)", headers.get("ratelimit", ""))
    if found:
        waits.append(float(found[1]))
    known = [wait for wait in waits if wait is not None]
    return max(known) if known else None


def wait_in_message(message: str) -> float | None:
    """Read the seconds in a message such as "try again in 1.5s" or "retry after 20 seconds"; None if there are none.

    A wait that cannot be meant is not one.
    """
    found = re.search(
        r"(?:try again in|retry after) ((?:\d+(?:\.\d+)?(?:ms|h|m|s)?)+)(?: (hour|minute|millisecond))?",
        message,
        re.IGNORECASE,
    )
    if found is None:
        return None
    if found[1][-1].isalpha():
        return believed(parse_duration(found[1]))
    units = {"hour": 3600.0, "minute": 60.0, "millisecond": 0.001}
    return believed(float(found[1]) * units.get((found[2] or "").lower(), 1.0))


def parse_duration(text: str) -> float | None:
    """Parse a duration such as 12ms, 1.5s or 6m0s into seconds; None if it is not one."""
    if not re.fullmatch(r"(\d+(\.\d+)?(ms|h|m|s))+", text):
        return None
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", text))


def _non_negative(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
