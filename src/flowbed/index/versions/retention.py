"""Which old versions of a collection are kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Retention:
    """The versions kept besides the newest and the tagged ones: the last `versions`, and all of the last `days`."""

    versions: int = 10
    days: float = 7


NOTHING = Retention(versions=1, days=0)
