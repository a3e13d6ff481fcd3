"""When a source is due: every so often, or by a cron expression in a time zone."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND = 1_000_000  # µs
UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
# Sources that are due together start within this share of the time between two ticks, but within a minute.
STAGGERED, LONGEST_STAGGER = 0.1, 60 * SECOND
# Abbreviations of cron, which the parser does not know.
ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


def seconds_of(span: str) -> int:
    """Return the seconds of a span such as 90s, 30m, 6h or 2d.

    Raises:
        ValueError: it is none, or it is 0.
    """
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", span)
    if found is None or not int(found[1]):
        raise ValueError(span)
    return int(found[1]) * UNITS[found[2]]


@dataclass(frozen=True)
class Schedule:
    """`next` returns the first tick after a time; both are µs since 1970. `name` staggers it."""

    name: str
    next: Callable[[int], int]

    def due(self, last: int) -> int:
        """Return when the source is due that was last done at `last`: once, however many ticks were missed since."""
        tick = self.next(last)
        width = min(LONGEST_STAGGER, round(STAGGERED * (self.next(tick) - tick)))
        return tick + zlib.crc32(self.name.encode()) % max(width, 1)


@dataclass(frozen=True, kw_only=True)
class Due:
    """When a watch fetched a source last and when it is due next (µs since 1970); 0 if no watch ever fetched it.

    A source that is `followed` is fetched when its files change, too.
    """

    last: int
    next: int
    followed: bool


def schedule(name: str, *, every: str, cron: str, timezone: str) -> Schedule:
    """Make the schedule of a source from its settings.

    Raises:
        Misconfigured: a setting is invalid, or two contradict each other.
    """
    place = f"[sources.{name}]"
    if every and cron:
        raise Misconfigured(f"{place} has both every and cron; remove one")
    if not cron:
        try:
            span = seconds_of(every) * SECOND
        except ValueError:
            raise Misconfigured(f"{place}: every is {every!r}; write it as 90s, 30m, 6h or 2d") from None
        return Schedule(name, lambda last: last + span)
    try:
        zone: tzinfo = UTC if timezone in ("", "UTC") else ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise Misconfigured(
            f"{place}: timezone {timezone!r} is unknown; write it as Europe/Berlin (where the system has no zones,"
            " install the package tzdata)"
        ) from error
    expression = ALIASES.get(cron.strip().lower(), cron)

    def tick(last: int) -> int:
        found: datetime = next(CronSim(expression, datetime.fromtimestamp(last / SECOND, zone)))
        return round(found.timestamp() * SECOND)

    try:
        tick(0)
    except (CronSimError, StopIteration) as error:
        raise Misconfigured(
            f"{place}: cron is {cron!r}, which is no time that ever comes ({error}); write five fields, such as"
            ' "0 7 * * 1-5", at seven on weekdays'
        ) from None
    return Schedule(name, tick)
